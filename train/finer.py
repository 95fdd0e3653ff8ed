"""Hidden units that read fine views: by how much large photographs that are scaled or coded score too well.

What copies of large photographs lose is mostly out of sight in 512 pixels, and plain to see at twice that. The units
are fitted to what the score still lacks there, and leave undamaged photographs where they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from metaqap_fast.train import hidden
from metaqap_fast.train.components import components, joined
from metaqap_fast.train.damage import BEST
from metaqap_fast.train.large import Large
from metaqap_fast.train.units import Units, units

F64 = NDArray[np.float64]
COMPONENTS = 256  # of each member's taps: there are fewer copies than rungs
LAYERS, UNITS = 4, 8  # layers that are fitted from different starts, and units of each
STEPS, DROPOUT, ROWS = 800, 0.4, 600
UNDAMAGED = 4.0  # weight of a photograph itself, beside a copy's of 1
STAYS = 0.01  # of the score, that photographs which were not taught may lose in the mean, undamaged


@dataclass(frozen=True, slots=True)
class Lacks:
    """What copies [n] of large photographs score, and what they should.

    Attributes:
        large: the copies.
        score: [n] as it is, with the units that read the other views.
        wanted: [n].
    """

    large: Large
    score: F64
    wanted: F64


def lacks(large: Large, score: F64, kept: F64) -> Lacks:
    """Copies that are to keep shares [n] of what their photographs score."""
    return Lacks(large, score, score[originals(large)] * kept)


def share(opinion: float) -> float:
    """The share of a photograph's score that KADID's opinion, from 1, leaves of it.

    On a straight line, and not by the model's own scores of 512 pixels as for the other units, which stay high where
    people see little left: then a fine view would only say again what the others say.
    """
    return (opinion - 1) / (BEST - 1)


def originals(large: Large) -> NDArray[np.int64]:
    """[n] the row of each copy's photograph itself."""
    first = np.unique(large.photograph, return_index=True)[1]
    return np.repeat(first, np.bincount(large.photograph))


def fit(taught: Lacks, judged: Large, seed: int) -> Units:
    """Units whose one column says what the score is to change by, where that is less than 0.

    Args:
        taught: copies.
        judged: others, of which the photographs themselves decide from where on the score is lowered.
        seed: of everything.
    """
    large = taught.large
    itself = np.unique(originals(large))
    parts = [components(fine[itself], fine, COMPONENTS, seed) for fine in large.fine]
    x = joined(parts, large.fine)
    layers = [_layer(taught, x, seed + place) for place in range(LAYERS)]
    made = units(hidden.joined_layers(layers), parts)
    undamaged = made([fine[np.unique(originals(judged))] for fine in judged.fine])[:, 0]
    return made.scaled(np.ones(1), np.array([stays(undamaged)]))


def lowered(made: Units, large: Large) -> F64:
    """[n] what the score of copies changes by, at most 0."""
    return np.minimum(made(large.fine)[:, 0], 0)


def stays(change: F64) -> float:
    """What is to be added to changes [n] so that, cut off at 0, they are -STAYS in the mean."""
    low, high = -float(change.max()) - STAYS, -float(change.min())
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(change + middle, 0).mean() < -STAYS else (low, middle)
    return high


def _layer(taught: Lacks, x: Tensor, seed: int) -> hidden.Layer:
    """One layer, from one start; `x` [n, K] are coordinates of what members see in the copies' fine views."""
    off = torch.tensor(taught.wanted - taught.score, dtype=torch.float32)
    weight = torch.ones(len(off))
    weight[torch.from_numpy(np.unique(originals(taught.large)))] = UNDAMAGED
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = hidden.Layer(x.shape[1], UNITS, 1)
        drop, learn = hidden.dropout(DROPOUT, x.shape[1]), hidden.learning(layer, STEPS)
        for _ in range(STEPS):
            rows = torch.from_numpy(rng.permutation(len(x))[:ROWS])
            learn(_loss(layer(drop(x[rows]))[:, 0], off[rows], weight[rows]))
    return layer.eval()


def _loss(change: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    return (weight * functional.mse_loss(change, wanted, reduction="none")).mean()
