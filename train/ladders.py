"""Ladders: a training image as it is, and under one distortion at two severities, in known order of quality.

Opinion scores of photographs seldom tell a noisy image from a noisier one, and a network that was fine-tuned on them
alone may score the noisier one higher. No opinion is needed to know better: each image of a ladder is worse than the
one before it, and `order_loss` says so. Only kinds that harm any photograph are used, over ranges that reach past the
levels of `distortions`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metaqap_fast.train.distortions import DISTORTIONS
from metaqap_fast.train.distortions.base import generator

RUNGS = 3  # as it is, milder, more severe
MARGIN = 0.03  # of MOS on a scale of 0..1, that neighbours are to be apart by
GAP = 0.35  # of a range, that the two severities are apart by at least

# Distortion: its parameter from just visible to ruinous, between which severities are spread geometrically.
RANGES: dict[int, tuple[float, float]] = {
    1: (0.8, 6.0),  # Gaussian blur, sigma in pixels
    2: (1.5, 10.0),  # lens blur, radius in pixels
    3: (3.0, 20.0),  # motion blur, length in pixels
    9: (40.0, 400.0),  # JPEG 2000, compression ratio
    10: (50.0, 5.0),  # JPEG, quality
    11: (0.0006, 0.06),  # white noise, variance: sigma 6 to 62 of 255
    12: (0.0003, 0.03),  # colour-component noise, variance
    13: (0.003, 0.15),  # impulse noise, density
}
# Noise is what opinion scores teach least: half of all ladders.
KINDS = (1, 2, 3, 9, 10, 11, 11, 11, 12, 13)


@dataclass(frozen=True, slots=True)
class Ladder:
    """A distortion of one image: its number, its milder and more severe parameter, the seed of its random numbers."""

    kind: int
    severities: tuple[float, float]
    seed: int


def ladder(seed: int) -> Ladder:
    """The ladder of a seed."""
    rng = np.random.default_rng((seed, RUNGS))
    kind = int(rng.choice(KINDS))
    low, high = RANGES[kind]
    mild = rng.uniform(0, 1 - GAP)
    severe = rng.uniform(mild + GAP, 1)
    milder, worse = (low * math.exp(place * math.log(high / low)) for place in (mild, severe))
    return Ladder(kind, (milder, worse), seed)


@torch.no_grad()
def climb(view: NDArray[np.uint8], steps: Ladder) -> list[NDArray[np.uint8]]:
    """RUNGS views [S, S, 3] uint8, best first; the two distorted ones share their random numbers."""
    x = torch.from_numpy(view.copy()).permute(2, 0, 1)[None].float() / 255
    apply = DISTORTIONS[steps.kind - 1].function
    worse = [apply(x, severity, [generator(steps.seed, steps.kind)]) for severity in steps.severities]
    return [view, *((one[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy() for one in worse)]


def ladders(views: Iterable[NDArray[np.uint8]], seed: int) -> Iterator[NDArray[np.uint8]]:
    """RUNGS views for each view, in its place."""
    for number, view in enumerate(views):
        yield from climb(view, ladder(seed * 1_000_003 + number))


def order_loss(predictions: Tensor) -> Tensor:
    """Mean of how far neighbours fall short of their margin: mean max(0, MARGIN - (better - worse)).

    Args:
        predictions: [K * RUNGS] MOS of K ladders, the images of each together, best first.
    """
    rungs = predictions.view(-1, RUNGS)
    return (MARGIN - (rungs[:, :-1] - rungs[:, 1:])).clamp_min(0).mean()
