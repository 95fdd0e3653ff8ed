"""The meta-learner: forward stepwise linear regression of MOS on members, and its uncertainty.

The behaviour that the paper describes, not that of its published code, which tests the first predictor's
coefficient instead of the candidate's and so keeps every predictor, noise included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from metaqap_fast.evaluate import plcc

F64 = NDArray[np.float64]

MIN_COEFFICIENT = 0.05  # |beta| of standardised predictors and MOS
MIN_GAIN = 1e-4  # of held-out PLCC; less is noise


@dataclass(frozen=True, slots=True)
class MetaLearner:
    """score = sum_m weights[m] p_m + intercept; weights [M] are 0 for members that were not selected.

    `steps` tells the selection: (member, held-out PLCC with it), in the order of selection.
    """

    weights: F64
    intercept: float
    steps: tuple[tuple[int, float], ...]


def stepwise(predictions: F64, y: F64, folds: NDArray[np.int64]) -> MetaLearner:
    """Select and weight members.

    At each step the member that raises the held-out PLCC of the regression most is added, if its own
    standardised coefficient is at least MIN_COEFFICIENT and the gain at least MIN_GAIN; else selection ends.

    Args:
        predictions: [n, M] out-of-fold member predictions.
        y: [n] MOS.
        folds: [n] fold numbers; the regression is judged on folds it was not fitted on.
    """
    chosen: list[int] = []
    steps: list[tuple[int, float]] = []
    quality = 0.0
    while len(chosen) < predictions.shape[1]:
        rest = [m for m in range(predictions.shape[1]) if m not in chosen]
        gains = [(_held_out_plcc(predictions[:, [*chosen, m]], y, folds), m) for m in rest]
        best, member = max(gains)
        columns = predictions[:, [*chosen, member]]
        coefficient = _regress(columns, y)[0][-1] * columns[:, -1].std() / y.std()
        if best - quality < MIN_GAIN or abs(coefficient) < MIN_COEFFICIENT:
            break
        chosen.append(member)
        steps.append((member, best))
        quality = best
    weights = np.zeros(predictions.shape[1])
    weights[chosen], intercept = _regress(predictions[:, chosen], y)
    return MetaLearner(weights, intercept, tuple(steps))


def _regress(x: F64, y: F64) -> tuple[F64, float]:
    """Ordinary least squares with an intercept."""
    design = np.column_stack([x, np.ones(len(x))])
    solution = np.linalg.lstsq(design, y, rcond=None)[0]
    return np.asarray(solution[:-1], np.float64), float(solution[-1])


def held_out(x: F64, y: F64, folds: NDArray[np.int64]) -> F64:
    """[n] predictions of the regression of y on x, each by the fit without its fold."""
    out = np.empty_like(y)
    for fold in np.unique(folds):
        test = folds == fold
        weights, intercept = _regress(x[~test], y[~test])
        out[test] = x[test] @ weights + intercept
    return out


def _held_out_plcc(x: F64, y: F64, folds: NDArray[np.int64]) -> float:
    return plcc(held_out(x, y, folds), y)


def calibrate(score: F64, spread: F64, y: F64) -> tuple[float, float]:
    """Coefficients (floor, slope) >= 0 of variance = floor + slope * spread^2.

    Non-negative least squares on the squared residuals of held-out scores, then one common factor so that
    the mean predicted variance is the mean squared residual.
    """
    squared = (y - score) ** 2
    design = np.column_stack([np.ones_like(spread), spread**2])
    (floor, slope), _ = nnls(design, squared)
    factor = squared.mean() / (design @ [floor, slope]).mean()
    return float(floor * factor), float(slope * factor)
