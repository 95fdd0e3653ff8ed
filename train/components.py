"""A member's pooled taps in few numbers: the directions along which photographs and their damage vary most.

Taps have some 25,000 columns, most of them alike. A hidden layer that is fitted on the first thousand principal
components is one on the taps themselves, for a product of matrices leads back; it costs a twentieth and fits less
noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from metaqap_fast.train.ridge import standardisation
from metaqap_fast.train.seen import Pooled

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
BLOCK = 1000  # rows that are standardised at a time
MOST = 20_000  # damaged rows that directions are found on: each is 50 KB, and there are enough
SPARE = 64  # directions that the randomised decomposition takes beyond those that are asked for


@dataclass(frozen=True, slots=True)
class Standard:
    """Columns [D]: mean, and 1 over the deviation, 0 where a column does not vary."""

    mean: F32
    inverse: F32


def standard(photographs: Pooled, damaged: Pooled) -> Standard:
    """Of pooled taps [n, D] of photographs and [m, D] of damaged ones.

    The mean is that of photographs; the deviation is of all, so that what only damage moves is no outlier.
    """
    mean = photographs.mean(0, dtype=np.float64)
    _, deviation, used = standardisation(np.concatenate([photographs, damaged]).astype(np.float32))
    return Standard(mean.astype(np.float32), np.where(used, 1 / np.where(used, deviation, 1), 0).astype(np.float32))


def standardised(rows: Pooled, by: Standard) -> F32:
    """[n, D] float32."""
    out = np.empty(rows.shape, np.float32)
    for i in range(0, len(rows), BLOCK):
        out[i : i + BLOCK] = (rows[i : i + BLOCK].astype(np.float32) - by.mean) * by.inverse
    return out


@dataclass(frozen=True, slots=True)
class Components:
    """A member's taps [n, D] as coordinates [n, K], of mean square 1 over what they were found on.

    Attributes:
        by: what raw taps are standardised with.
        directions: [D, K].
    """

    by: Standard
    directions: F32

    def __call__(self, pooled: Pooled) -> F32:
        """[n, K] float32."""
        out = np.empty((len(pooled), self.directions.shape[1]), np.float32)
        for i in range(0, len(pooled), BLOCK):
            out[i : i + BLOCK] = standardised(pooled[i : i + BLOCK], self.by) @ self.directions
        return out

    def raw(self, weights: F32) -> tuple[F32, F64]:
        """Weights [K, U] on coordinates as weights [D, U] on raw taps, and what is to be added [U]."""
        on_taps = (self.directions @ weights) * self.by.inverse[:, None]
        return on_taps, -(self.by.mean.astype(np.float64) @ on_taps)


def components(photographs: Pooled, damaged: Pooled, count: int, seed: int) -> Components:
    """The first `count` principal components, or as many as there are, by a randomised decomposition (Halko 2011).

    Args:
        photographs: [n, D] raw taps.
        damaged: [m, D] of rungs; of more than MOST some are chosen at random.
        count: K.
        seed: of the decomposition.
    """
    if len(damaged) > MOST:
        damaged = damaged[np.sort(np.random.default_rng(seed).permutation(len(damaged))[:MOST])]
    by = standard(photographs, damaged)
    x = torch.from_numpy(standardised(np.concatenate([damaged, photographs]), by))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, values, directions = torch.svd_lowrank(x, q=min(count + SPARE, *x.shape), niter=2)
    kept = min(count, int((values > 1e-6 * values[0]).sum()))
    scale = float(values[:kept].square().sum() / (len(x) * kept)) ** -0.5
    return Components(by, directions[:, :kept].numpy() * np.float32(scale))


def joined(parts: Sequence[Components], pooled: Sequence[Pooled]) -> torch.Tensor:
    """Coordinates of all members side by side [n, sum K]."""
    return torch.from_numpy(np.concatenate([part(seen) for part, seen in zip(parts, pooled, strict=True)], 1))
