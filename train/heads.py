"""Heads fitted anew on what trained members see: order under damage, at no cost to photographs.

A member's head w reads its pooled taps f. What is sought is a change d of it, so that

    d . f = 0                                   on labelled photographs, which the head scores well already
    (w + d) . (f_damaged - f_own) = target      on rungs, whose target says how much a photograph loses

by least squares, with a penalty on d. Only differences within a content count, so that the head learns nothing about
the photographs themselves. All of it is in the dual: once the kernel of all rows is there, leaving rows out or trying
weights costs next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from metaqap_fast.train.ridge import standardisation

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Rows = NDArray[np.int64]

BLOCK = 1000  # rows that are standardised at a time


@dataclass(frozen=True, slots=True)
class Standard:
    """Columns [D]: mean, and 1 over the deviation, 0 where a column does not vary."""

    mean: F32
    inverse: F32


def standard(photographs: NDArray[np.float16], damaged: NDArray[np.float16]) -> Standard:
    """Of pooled taps [n, D] of photographs and [m, D] of damaged ones.

    The mean is that of photographs, whose scores then keep theirs without a constant; the deviation is of all, so that
    what only damage moves is no outlier.
    """
    mean = photographs.mean(0, dtype=np.float64)
    _, deviation, used = standardisation(np.concatenate([photographs, damaged]).astype(np.float32))
    return Standard(mean.astype(np.float32), np.where(used, 1 / np.where(used, deviation, 1), 0).astype(np.float32))


def standardised(rows: NDArray[np.float16], by: Standard) -> F32:
    """[n, D] float32."""
    out = np.empty(rows.shape, np.float32)
    for i in range(0, len(rows), BLOCK):
        out[i : i + BLOCK] = (rows[i : i + BLOCK].astype(np.float32) - by.mean) * by.inverse
    return out


def gram(x: F32) -> F32:
    """Kernel [n, n] of rows [n, D], of mean diagonal 1 where `standard` is of these rows."""
    out = np.empty((len(x), len(x)), np.float32)
    for i in range(0, len(x), BLOCK):
        out[i : i + BLOCK, : i + BLOCK] = x[i : i + BLOCK] @ x[: i + BLOCK].T / x.shape[1]
    lower = np.tril(out)
    return lower + np.tril(out, -1).T


@dataclass(frozen=True, slots=True)
class Change:
    """What is asked of a change of a head: row `plus` minus row `minus` (none: -1) should give `value`, with a weight.

    Each is [m]; rows are those of the kernel.
    """

    plus: Rows
    minus: Rows
    value: F64
    weight: F64

    def __getitem__(self, kept: NDArray[np.bool_]) -> Change:
        return Change(self.plus[kept], self.minus[kept], self.value[kept], self.weight[kept])


def join(*parts: Change) -> Change:
    """All of them."""
    return Change(
        np.concatenate([part.plus for part in parts]),
        np.concatenate([part.minus for part in parts]),
        np.concatenate([part.value for part in parts]),
        np.concatenate([part.weight for part in parts]),
    )


def solve(kernel: F32, asked: Change, penalty: float) -> F64:
    """Coefficients [n] of the kernel's rows: the change is sum_i c_i x_i / D, and gives kernel @ c on the rows."""
    mixed = _columns(kernel, asked)  # [n, m]
    system = _columns(np.ascontiguousarray(mixed.T), asked)  # [m, m]
    system[np.diag_indices_from(system)] += (penalty / asked.weight).astype(np.float32)
    dual = cho_solve(cho_factor(system, lower=True, overwrite_a=True, check_finite=False), asked.value)
    coefficients = np.zeros(len(kernel))
    np.add.at(coefficients, asked.plus, dual)
    pairs = asked.minus >= 0
    np.subtract.at(coefficients, asked.minus[pairs], dual[pairs])
    return coefficients


def _columns(kernel: F32, asked: Change) -> F32:
    out = kernel[:, asked.plus]
    pairs = np.flatnonzero(asked.minus >= 0)
    out[:, pairs] -= kernel[:, asked.minus[pairs]]
    return out


def raw(x: F32, coefficients: F64, by: Standard) -> F64:
    """The change as weights [D] on raw pooled taps; what it adds to every row alike is left to the bias."""
    weights: F64 = (coefficients.astype(np.float32) @ x).astype(np.float64) / x.shape[1] * by.inverse
    return weights
