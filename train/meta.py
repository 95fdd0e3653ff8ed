"""The meta-learner: forward stepwise linear regression of MOS on members, and its uncertainty.

The behaviour that the paper describes, not that of its published code, which tests the first predictor's
coefficient instead of the candidate's and so keeps every predictor, noise included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from metaqap_fast.errors import MetaqapError
from metaqap_fast.evaluation import plcc

F64 = NDArray[np.float64]

MIN_COEFFICIENT = 0.05  # |beta| of standardised predictors and MOS
MIN_GAIN = 1e-4  # of held-out PLCC; less is noise
KNOTS = (0.1, 0.3, 0.5, 0.7, 0.9)  # quantiles of the score, between which the variance is linear
LEAST_VARIANCE = 0.05  # of the mean squared residual, anywhere: no score is certain


@dataclass(frozen=True, slots=True)
class Selection:
    """The members that were selected: score = sum_m weights[m] p_m + intercept, with weights [M] of 0 for the others.

    `steps` says how: (member, held-out PLCC with it), in the order of selection.
    """

    weights: F64
    intercept: float
    steps: tuple[tuple[int, float], ...]


def stepwise(predictions: F64, y: F64, folds: NDArray[np.int64]) -> Selection:
    """Select and weight members.

    At each step the member that raises the held-out PLCC of the regression most is added, if its own
    standardised coefficient is at least MIN_COEFFICIENT and the gain at least MIN_GAIN; else selection ends.

    Args:
        predictions: [n, M] out-of-fold member predictions.
        y: [n] MOS.
        folds: [n] fold numbers; the regression is judged on folds it was not fitted on.

    Raises:
        MetaqapError: no member says anything of MOS.
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
    if not chosen:
        raise MetaqapError(
            "no network says anything of the opinion scores: on images that it was not fitted on the best has a PLCC "
            f"of {best:.3f} over {len(y)} images. Check the labels and their range, or train on more images"
        )
    weights = np.zeros(predictions.shape[1])
    weights[chosen], intercept = _regress(predictions[:, chosen], y)
    return Selection(weights, intercept, tuple(steps))


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


def calibrate(score: F64, spread: F64, y: F64) -> tuple[list[tuple[float, float]], float]:
    """The points (score, variance) of `floor` and the slope of variance = floor(score) + slope * spread^2, all >= 0.

    Bad photographs are bad in more ways than good ones, and people agree less on them: the error depends on the
    score. Non-negative least squares on the squared residuals of held-out scores, with a hat function at each of
    KNOTS quantiles of the score; then a least variance, and one common factor so that the mean predicted variance is
    the mean squared residual.
    """
    squared = (y - score) ** 2
    knots = np.unique(np.quantile(score, KNOTS))
    hats = np.stack([np.interp(score, knots, unit) for unit in np.eye(len(knots))], 1)
    design = np.column_stack([hats, spread**2])
    coefficients, _ = nnls(design, squared)
    coefficients[:-1] = np.maximum(coefficients[:-1], LEAST_VARIANCE * squared.mean())
    coefficients *= squared.mean() / (design @ coefficients).mean()
    *floor, slope = coefficients.tolist()
    return list(zip(knots.tolist(), floor, strict=True)), slope
