"""How unlike its training photographs a picture is, by what a member sees in it.

Photographs fill few directions of the pooled taps. A picture's distance is what it has along the first of them, each in
units of its spread there, and what is left over, in units of what photographs leave over (probabilistic principal
components: Tipping and Bishop 1999). Its mark is the share of other photographs that are nearer: 1 is unlike them all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.train.components import F32, Standard, standard, standardised
from metaqap_fast.train.seen import Pooled

F64 = NDArray[np.float64]
DIRECTIONS = 64


@dataclass(frozen=True, slots=True)
class Familiar:
    """What photographs look like to a member.

    Attributes:
        by: what raw taps are standardised with.
        directions: [K, D] orthonormal, the largest spread first.
        spread: [K] variance along each.
        rest: mean square of what is left over.
        others: [n] distances of photographs that nothing was fitted on, ascending.
    """

    by: Standard
    directions: F32
    spread: F64
    rest: float
    others: F64

    def distance(self, pooled: Pooled) -> F64:
        """[n] of raw taps [n, D]; about 1 for the photographs themselves."""
        along, left = _parts(standardised(pooled, self.by), self.directions)
        found: F64 = 0.5 * (along**2 / self.spread).mean(1) + 0.5 * left / self.rest
        return found

    def unfamiliar(self, pooled: Pooled) -> F64:
        """[n] from 0 to 1: the share of other photographs that are nearer."""
        return np.searchsorted(self.others, self.distance(pooled)) / len(self.others)


def fit(photographs: Pooled, others: Pooled, directions: int = DIRECTIONS) -> Familiar:
    """What photographs look like.

    Args:
        photographs: [m, D] raw taps.
        others: [n, D] of photographs that are not among them: distances of seen ones are too small.
        directions: K, at most a fourth of m.
    """
    by = standard(photographs, photographs[:0])
    x = standardised(photographs, by)
    count = max(1, min(directions, len(x) // 4))
    values, vectors = np.linalg.eigh(x.astype(np.float64) @ x.T)
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    found = ((vectors / np.sqrt(values)).T @ x).astype(np.float32)
    # Spread and rest are those of the others: along directions that were chosen for it, the seen ones spread more.
    along, left = _parts(standardised(others, by), found)
    spread, rest = (along**2).mean(0), float(left.mean())
    half = Familiar(by, found, spread, rest, np.zeros(1))
    return Familiar(by, found, spread, rest, np.sort(half.distance(others)))


def _parts(x: F32, directions: F32) -> tuple[F64, F64]:
    """Coordinates [n, K] along the directions, and the mean square [n] of what is left over."""
    along = (x @ directions.T).astype(np.float64)
    left = (np.einsum("nd,nd->n", x, x, dtype=np.float64) - (along**2).sum(1)).clip(0) / x.shape[1]
    return along, left
