"""Members to score and uncertainty: the meta-learner.

On arrays in float64; on torch tensors, which is what a GPU's engines give, by the fused operator of
`metaqap_fast.kernels`, so that nothing but its results leaves the device.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MetaLearner:
    """Stepwise linear meta-learner and the calibration of its uncertainty, see `combine`.

    `variance_floor` is a line through points (score, variance), by ascending score; one point is a constant.
    `small_variance` is one through points (pixels of the shorter side, variance), by ascending size, that falls to 0;
    without points size adds nothing. `severity_variance` is one through points (severity, variance) that rises from
    (0, 0); without points damage adds nothing. See `widened`. `fine_variance` is one through points (by how much a fine
    view lowers the predictions, variance) that rises from (0, 0); without points fine views add nothing.
    """

    weights: tuple[float, ...]
    intercept: float
    variance_floor: tuple[tuple[float, float], ...]
    variance_slope: float
    small_variance: tuple[tuple[float, float], ...] = ()
    severity_variance: tuple[tuple[float, float], ...] = ()
    fine_variance: tuple[tuple[float, float], ...] = ()


def combine(members: F32, meta: MetaLearner, change: F32 | None = None) -> tuple[F32, F32]:
    """Score and 1-sigma uncertainty of each image.

        score       = sum_m w_m p_m + b, clipped to the score range
        spread^2    = sum_m |w_m| (p_m - score)^2 / sum_m |w_m|
        uncertainty = sqrt(variance_floor(score) + variance_slope * spread^2 + fine_variance(-change))

    The spread is the weighted disagreement of the members around the unclipped score. The floor is linear between
    its points and constant beyond them; it and the slope are fitted on out-of-fold residuals (see
    `metaqap_fast.train.meta`). What large pictures lose by their fine views is less sure, for the labelled set has no
    such pictures (see `metaqap_fast.train.doubt`).

    Args:
        members: [B, M] member predictions on the MOS scale.
        meta: the bundle's meta-learner.
        change: [B, 1] what fine views have changed in them, at most 0; None where there are no such views.

    Returns:
        score [B] in [0, 1] and uncertainty [B] in the same units, float32.
    """
    predictions = members.astype(np.float64)
    weights = np.asarray(meta.weights)
    # A sum along the last axis depends on that row alone: the same score in any batch.
    score = (predictions * weights).sum(axis=1) + meta.intercept
    disagreement = spread(predictions, score, weights)
    variance = _on_line(score, meta.variance_floor) + meta.variance_slope * disagreement**2
    if change is not None and meta.fine_variance:
        variance = variance + _on_line(-change[:, 0], meta.fine_variance)
    uncertainty = np.sqrt(variance)
    return np.clip(score, 0.0, 1.0).astype(np.float32), uncertainty.astype(np.float32)


def widened(uncertainty: float, side: int, severity: float, meta: MetaLearner) -> float:
    """The uncertainty of an image whose shorter side has `side` pixels, and whose worst severity is `severity`.

    A small copy of a photograph hides what is wrong with it, and the members do not know. The variance that this adds
    was measured on small copies of rated photographs (`metaqap_fast.bench.thumbnails`); from the last of its points
    on, the size that the members see, it is 0.

    The labelled set has few ruined photographs, and scores of damaged ones are further from what people say; for the
    variance that this adds see `metaqap_fast.train.doubt`. Where both are 0 the uncertainty stays as it is, to the bit.
    """
    added = 0.0
    if meta.small_variance and side < meta.small_variance[-1][0]:
        added += float(_on_line(side, meta.small_variance))
    if meta.severity_variance and severity > 0:
        added += float(_on_line(severity, meta.severity_variance))
    return math.sqrt(uncertainty**2 + added) if added else uncertainty


def _on_line(x: Any, points: tuple[tuple[float, float], ...]) -> F64:
    places, values = zip(*points, strict=True)
    return np.asarray(np.interp(x, places, values))


def combine_tensors(members: Tensor, meta: MetaLearner, change: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`combine` for torch tensors [B, M] and [B, 1], on their own device: the Triton kernel on a GPU.

    Returns:
        score [B] and uncertainty [B], float32, on the device of `members`. A row with a NaN has a NaN score.
    """
    from metaqap_fast import kernels

    weights, impl = _constants(meta.weights, members.device)
    score, disagreement = kernels.combine(members, weights, meta.intercept, impl=impl, check=False)
    variance = _line(score, meta.variance_floor) + meta.variance_slope * disagreement.square()
    if change is not None and meta.fine_variance:
        variance = variance + _line(-change[:, 0], meta.fine_variance)
    return score.clamp(0.0, 1.0), variance.sqrt()


@lru_cache(maxsize=8)
def _constants(weights: tuple[float, ...], device: Any) -> tuple[Tensor, str]:
    """The weights on a device, made once: to bring them there makes the host wait.

    And the operator's implementation: Triton compiles its launcher with a C compiler and Python's headers, which a
    slim machine lacks; torch's operations then do the same.
    """
    import torch

    from metaqap_fast import kernels
    from metaqap_fast.gpu_errors import first_line, lost, out_of_memory

    with torch.inference_mode(False):
        made = torch.tensor(weights, dtype=torch.float32, device=device)
    try:
        kernels.combine(made[None], made, 0.0, check=False)
    except Exception as error:
        if lost(error) or out_of_memory(error):
            raise
        log.warning("scores are combined by torch, for Triton cannot compile its kernel here: %s", first_line(error))
        return made, "torch"
    return made, "triton"


def _line(places: Tensor, points: tuple[tuple[float, float], ...]) -> Tensor:
    """A line through points, at places [B]: its first value, and the rise of every stretch up to there."""
    (left, value), *rest = points
    total = places.new_full(places.shape, value)
    for right, next_value in rest:
        total = total + ((places - left) / (right - left)).clamp(0.0, 1.0) * (next_value - value)
        left, value = right, next_value
    return total


def spread(predictions: F64, score: F64, weights: F64) -> F64:
    """Weighted disagreement [B] of predictions [B, M] around score [B], see `combine`."""
    square = (predictions - score[:, None]) ** 2
    return np.asarray(np.sqrt((square * np.abs(weights)).sum(axis=1) / np.abs(weights).sum()))
