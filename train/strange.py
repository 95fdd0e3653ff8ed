"""Whether a picture is a photograph at all: hidden units that tell documents, screens, drawings and plots from them.

They are fitted on pictures of such kinds beside photographs, damaged and not, by logistic regression. What they say
becomes one more severity, `unfamiliar`: 0 for photographs, 1 for what is like the strange pictures. The score says
little about those, and the reason that is given says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from metaqap_fast.train.components import Components
from metaqap_fast.train.hidden import Layer, dropout, learning
from metaqap_fast.train.reasons import limit, line, steeper
from metaqap_fast.train.rungs import digest
from metaqap_fast.train.seen import Pooled
from metaqap_fast.train.units import Units, units

F64 = NDArray[np.float64]
NAME = "unfamiliar"
UNITS = 8
BATCH = 1000  # of a step: so many photographs and so many strange pictures
JUDGED = 5  # one strange picture in so many is not fitted on


def fit(photographs: Tensor, strange: Tensor, steps: int, share: float, seed: int) -> Layer:
    """One layer [N, K] -> [N, 1] that says how much more likely a picture is strange: the logarithm of the odds.

    Args:
        photographs: [n, K] coordinates of what members see in photographs, damaged ones among them.
        strange: [s, K] of other pictures.
        steps: of fitting.
        share: of the coordinates that is left out at random.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer, drop = Layer(photographs.shape[1], UNITS, 1), dropout(share, photographs.shape[1])
        learn = learning(layer, steps)
        for _ in range(steps):
            parts = [each[torch.from_numpy(rng.integers(0, len(each), BATCH))] for each in (photographs, strange)]
            said = layer(drop(torch.cat(parts)))[:, 0]
            truth = (torch.arange(len(said)) >= BATCH).float()
            learn(functional.binary_cross_entropy_with_logits(said, truth))
    return layer.eval()


def beside(
    made: Units, layer: Layer, parts: Sequence[Components], photographs: Sequence[Pooled], strange: Tensor
) -> Units:
    """Units with those of `fit` beside them, and `unfamiliar` as their last severity.

    Calibrated: no more than a hundredth of photographs that nothing was fitted on is called unfamiliar, see
    `reasons.limit`, and strange pictures have a severity of 1 in the median.

    Args:
        made: the units so far.
        layer: see `fit`.
        parts: how each member's raw taps become coordinates.
        photographs: of each member, raw taps [k, D] of those photographs.
        strange: [s, K] coordinates that the layer was fitted on.
    """
    own = units(layer, parts)
    others = own(photographs)
    with torch.no_grad():
        typical = float(layer(strange).median())
    factor, shift = line(float(limit(others)[0]), typical, 1.0)
    own = own.scaled(np.array([factor]), np.array([shift]))
    return made.beside(
        Units(
            own.shares,
            own.start,
            np.pad(own.weights, ((0, 0), (1, 0))),  # of the score they say nothing
            np.pad(own.bias, (1, 0)),
            steeper(own(photographs)),
            (NAME,),
        )
    )


def is_judged(file: Path) -> bool:
    """Whether a strange picture is kept to judge by; what its bytes are decides."""
    return int.from_bytes(digest(file)[:8]) % JUDGED == 0
