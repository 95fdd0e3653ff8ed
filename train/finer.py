"""Hidden units that read fine views: by how much large photographs that are scaled or coded score too well.

What copies of large photographs lose is mostly out of sight in 512 pixels, and plain to see at more lines. The units
are fitted to what the score still lacks there, and leave undamaged photographs where they are. Among the worst pictures
metrics of fine detail and people disagree, and the other views tell more: there what the units say fades.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metaqap_fast.model.meta import MetaLearner
from metaqap_fast.model.readout import Fading, faded
from metaqap_fast.train import hidden
from metaqap_fast.train.components import components, joined
from metaqap_fast.train.damage import BEST
from metaqap_fast.train.large import Large
from metaqap_fast.train.seen import Pooled
from metaqap_fast.train.units import Units, units

F64 = NDArray[np.float64]
COMPONENTS = 64  # of each member's taps: there are far fewer photographs than for the other units
LAYERS, UNITS = 8, 4  # layers that are fitted from different starts, and units of each
STEPS, DROPOUT, ROWS = 800, 0.4, 600
UNDAMAGED = 20.0  # weight of a photograph itself, beside a copy's of 1
# Scores by the usual views from which a picture is poor, and fair, and what a poor one loses: see `fading`. Chosen on
# two rated sets (docs/training.md).
POOR, FAIR, LOST = 0.35, 0.6, 0.18
DIGITS = 4  # of the same, as a bundle has them
STAYS = 0.008  # of a prediction, that photographs which were not taught may lose in the mean, undamaged


@dataclass(frozen=True, slots=True)
class Lacks:
    """What copies [n] of large photographs score, and what they should.

    Attributes:
        large: the copies.
        prediction: [n] of the members in the mean, with the units that read the other views.
        lack: [n] what every prediction is to change by.
        fading: of what fine views tell.
    """

    large: Large
    prediction: F64
    lack: F64
    fading: Fading


def fading(meta: MetaLearner) -> Fading:
    """From scores to members' predictions, which is what the readout compares and changes."""
    factor = sum(meta.weights)
    poor, fair = ((score - meta.intercept) / factor for score in (POOR, FAIR))
    return round(poor, DIGITS), round(fair, DIGITS), round(LOST / factor, DIGITS)


def lacks(large: Large, said: F64, kept: F64, meta: MetaLearner) -> Lacks:
    """Copies that are to keep shares [n] of what their photographs score.

    Args:
        large: the copies.
        said: [n, M] members' predictions.
        kept: [n] shares.
        meta: what makes scores of them.
    """
    weights = np.array(meta.weights)
    score = said @ weights + meta.intercept
    lack = (score[originals(large)] * kept - score) / weights.sum()
    return Lacks(large, said.mean(1), lack, fading(meta))


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
    """Units whose one column says what predictions are to change by, where that is less than 0 and does not fade.

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
    made = made.scaled(np.ones(1), np.array([stays(undamaged)]))
    return replace(made, fading=taught.fading, lines=large.lines)


def lowered(made: Units, fine: Sequence[Pooled], prediction: F64) -> F64:
    """[n] what predictions change by, at most 0.

    Args:
        made: the units.
        fine: of each member, raw taps [n, D] of fine views.
        prediction: [n] the members' mean, of the usual views.
    """
    change: F64 = faded(made(fine)[:, 0], prediction, made.fading)
    return change


def stays(change: F64) -> float:
    """What is to be added to changes [n] so that, cut off at 0, they are -STAYS in the mean."""
    low, high = -float(change.max()) - STAYS, -float(change.min())
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(change + middle, 0).mean() < -STAYS else (low, middle)
    return high


def _layer(taught: Lacks, x: Tensor, seed: int) -> hidden.Layer:
    """One layer, from one start; `x` [n, K] are coordinates of what members see in the copies' fine views."""
    lack, prediction = (torch.tensor(each, dtype=torch.float32) for each in (taught.lack, taught.prediction))
    poor, fair, lost = taught.fading
    share = ((prediction - poor) / (fair - poor)).clip(0, 1)
    weight = torch.ones(len(lack))
    weight[torch.from_numpy(np.unique(originals(taught.large)))] = UNDAMAGED
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = hidden.Layer(x.shape[1], UNITS, 1)
        drop, learn = hidden.dropout(DROPOUT, x.shape[1]), hidden.learning(layer, STEPS)
        for _ in range(STEPS):
            rows = torch.from_numpy(rng.permutation(len(x))[:ROWS])
            # As `faded`, but that a photograph may gain by it: where lowering begins is set afterwards.
            change = share[rows] * layer(drop(x[rows]))[:, 0] - (1 - share[rows]) * lost
            learn((weight[rows] * (change - lack[rows]).square()).mean())
    return layer.eval()
