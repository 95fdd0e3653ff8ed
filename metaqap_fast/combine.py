"""Members to score and uncertainty: the meta-learner, on a CPU.

The mathematics of `metaqap_fast.kernels.qa_ensemble`, which does the same on a GPU.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.bundle import Meta

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def combine(members: F32, meta: Meta) -> tuple[F32, F32]:
    """Score and 1-sigma uncertainty of each image.

        score       = sum_m w_m p_m + b, clipped to the score range
        spread^2    = sum_m |w_m| (p_m - score)^2 / sum_m |w_m|
        uncertainty = sqrt(variance_floor + variance_slope * spread^2)

    The spread is the weighted disagreement of the members around the unclipped score; the two variance
    coefficients are fitted on out-of-fold residuals (see `metaqap_fast.train.meta`).

    Args:
        members: [B, M] member predictions on the MOS scale.
        meta: the bundle's meta-learner.

    Returns:
        score [B] in [0, 1] and uncertainty [B] in the same units, float32.
    """
    predictions = members.astype(np.float64)
    weights = np.asarray(meta.weights)
    # A sum along the last axis depends on that row alone: the same score in any batch.
    score = (predictions * weights).sum(axis=1) + meta.intercept
    disagreement = spread(predictions, score, weights)
    uncertainty = np.sqrt(meta.variance_floor + meta.variance_slope * disagreement**2)
    return np.clip(score, 0.0, 1.0).astype(np.float32), uncertainty.astype(np.float32)


def spread(predictions: F64, score: F64, weights: F64) -> F64:
    """Weighted disagreement [B] of predictions [B, M] around score [B], see `combine`."""
    square = (predictions - score[:, None]) ** 2
    return np.asarray(np.sqrt((square * np.abs(weights)).sum(axis=1) / np.abs(weights).sum()))
