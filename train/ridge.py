"""Closed-form ridge heads with exact out-of-fold predictions, in the dual.

With standardised features X [n, d], K = X X' / d + CONSTANT and A = K + alpha I, ridge regression predicts
K A^-1 y. The prediction for a fold F by the model fitted without F needs no second fit:

    y_F - ((A^-1)_FF)^-1 (A^-1 y)_F

(the block form of the leave-one-out identity), so one inverse gives all K folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, lapack

from metaqap_fast.evaluation import plcc

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

CONSTANT = 1.0  # the intercept as one more feature, so that it too is fitted without the held-out fold


@dataclass(frozen=True, slots=True)
class Head:
    """Linear head on raw features: `features @ weights + bias` is on the MOS scale.

    weights [d]; out_of_fold [n] the predictions for the training images by models that never saw their fold.
    """

    weights: F64
    bias: float
    alpha: float
    out_of_fold: F64


def grouped_folds(groups: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Fold number of each row, drawn so that rows of one group (near-duplicate images) share a fold."""
    names, inverse = np.unique(groups, return_inverse=True)
    return np.random.default_rng(seed).integers(0, count, len(names))[inverse]


def fit_ridge(features: F32, y: F64, folds: NDArray[np.int64], alphas: Sequence[float]) -> Head:
    """Fit a head; the penalty is the one with the best out-of-fold PLCC.

    Args:
        features: [n, d] raw features; constant columns get weight 0.
        y: [n] MOS.
        folds: [n] fold numbers.
        alphas: penalties to try, relative to a kernel with mean diagonal 1.
    """
    problem = _Problem(features)
    centre = float(y.mean())
    best: tuple[float, float, F64, F64] | None = None
    for alpha in alphas:
        factor, lower = problem.factor(alpha)
        dual = _dual(factor, lower, y - centre)
        held_out = _held_out(factor, lower, dual, y - centre, folds)
        quality = plcc(held_out, y)
        if best is None or quality > best[0]:
            best = quality, alpha, dual, held_out + centre
    assert best is not None, "no alpha given"
    _, alpha, dual, held_out = best
    return Head(*problem.primal(dual, centre), alpha, held_out)


def ridge(features: F32, y: F64, alpha: float) -> tuple[F64, float]:
    """Weights [d] and bias for raw features [n, d] and MOS y [n], by one penalty; nothing is held out."""
    problem = _Problem(features)
    centre = float(y.mean())
    return problem.primal(_dual(*problem.factor(alpha), y - centre), centre)


class _Problem:
    """Standardised features and their kernel."""

    def __init__(self, features: F32) -> None:
        self.mean, self.std, self.used = standardisation(features)
        x = (features[:, self.used] - self.mean[self.used]) / self.std[self.used]
        self.x = x.astype(np.float32)  # [n, d']
        self.kernel = self.x @ self.x.T / np.float32(self.x.shape[1]) + np.float32(CONSTANT)  # [n, n]

    def factor(self, alpha: float) -> tuple[F32, bool]:
        """Cholesky factor of the kernel with a penalty."""
        a = self.kernel.copy()
        a[np.diag_indices_from(a)] += np.float32(alpha)
        factor, lower = cho_factor(a, overwrite_a=True, check_finite=False)
        return factor, bool(lower)

    def primal(self, dual: F64, centre: float) -> tuple[F64, float]:
        """Weights and bias on raw features."""
        weights = np.zeros(len(self.mean))
        used = self.used
        weights[used] = (self.x.T @ dual.astype(np.float32)) / self.x.shape[1] / self.std[used]
        return weights, centre + CONSTANT * float(dual.sum()) - float(self.mean @ weights)


def standardisation(features: F32) -> tuple[F64, F64, NDArray[np.bool_]]:
    """Mean [d], standard deviation [d], and whether a column varies: one that does not gets weight 0."""
    mean, std = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    return mean, std, std > 1e-4 * np.maximum(1.0, np.abs(mean))


def _dual(factor: F32, lower: bool, y: F64) -> F64:
    """Dual coefficients [n]."""
    dual: F64 = cho_solve((factor, lower), y, check_finite=False).astype(np.float64)
    return dual


def _held_out(factor: F32, lower: bool, dual: F64, y: F64, folds: NDArray[np.int64]) -> F64:
    """Out-of-fold predictions [n]."""
    inverse, _ = lapack.spotri(factor, lower=lower)  # one triangle of A^-1
    inverse = np.tril(inverse) + np.tril(inverse, -1).T if lower else np.triu(inverse) + np.triu(inverse, 1).T
    held_out = np.empty_like(y)
    for fold in np.unique(folds):
        rows = np.flatnonzero(folds == fold)
        block = inverse[np.ix_(rows, rows)].astype(np.float64)
        held_out[rows] = y[rows] - np.linalg.solve(block, dual[rows])
    return held_out
