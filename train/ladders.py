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

from metaqap_fast.train import damage
from metaqap_fast.train.damage import named
from metaqap_fast.train.distortions import DISTORTIONS
from metaqap_fast.train.distortions.base import generator

RUNGS = 3  # as it is, milder, more severe
MARGIN = 0.03  # of MOS on a scale of 0..1, that neighbours are to be apart by
GAP = 0.35  # of a range, that the two severities are apart by at least

# Kind: its parameter from just visible to ruinous, between which severities are spread geometrically.
_FIRST = {
    "Gaussian blur": (0.8, 6.0),  # sigma in pixels
    "lens blur": (1.5, 10.0),  # radius in pixels
    "motion blur": (3.0, 20.0),  # length in pixels
    "JPEG 2000": (40.0, 400.0),  # compression ratio
    "JPEG": (50.0, 5.0),  # quality
    "white noise": (0.0006, 0.06),  # variance: sigma 6 to 62 of 255
    "colour-component noise": (0.0003, 0.03),  # variance
    "impulse noise": (0.003, 0.15),  # density
}
_OTHERS = {
    "colour diffusion": (2.0, 12.0),
    "colour shift": (2.0, 14.0),
    "colour quantisation": (48.0, 5.0),
    "saturation, Lab": (2.0, 9.0),
    "multiplicative noise": (0.003, 0.08),
    "denoise": (0.01, 0.15),
    "brighten": (0.2, 1.1),
    "darken": (0.15, 0.8),
    "jitter": (0.1, 1.2),
    "non-eccentricity patch": (20.0, 150.0),
    "pixelate": (0.03, 0.5),
    "quantisation": (18.0, 5.0),
    "colour block": (2.0, 14.0),
    "sharpen": (1.0, 12.0),
    "WebP": (50.0, 1.0),
    "AVIF": (50.0, 4.0),
    "upscaled, nearest": (1.4, 6.0),
    "upscaled, bilinear": (1.4, 6.0),
    "upscaled, bicubic": (1.4, 6.0),
    "upscaled, Lanczos": (1.4, 6.0),
    "smear": (0.001, 0.06),
    "ringing": (1.5, 12.0),
    "film grain": (0.03, 0.2),
    "shot noise": (200.0, 5.0),
    "over-exposure": (1.5, 5.0),
    "under-exposure": (0.5, 0.07),
    "colour cast": (0.08, 0.45),
    "haze": (0.2, 0.8),
    "contrast loss": (0.7, 0.15),
    "over-saturation": (1.6, 5.0),
    "banding": (20.0, 4.0),
    "channel shift": (1.0, 12.0),
    "lost blocks": (2.0, 60.0),
}
RANGES: dict[int, tuple[float, float]] = {named(name): ends for name, ends in (_FIRST | _OTHERS).items()}
FIRST: tuple[int, ...] = tuple(named(name) for name in _FIRST)  # what the first ladders taught
_NOISE = (named("white noise"),)
# Noise is what opinion scores teach least: half of the ladders of the first kinds, an eighth of those of all.
KINDS: dict[str, tuple[int, ...]] = {
    "first": tuple(sorted((*FIRST, *2 * _NOISE))),
    "all": tuple(sorted((*RANGES, *5 * _NOISE))),
}


@dataclass(frozen=True, slots=True)
class Ladder:
    """A kind of damage to one image: its place in `damage.KINDS`, its milder and more severe parameter, and the seed of
    its random numbers."""

    kind: int
    severities: tuple[float, float]
    seed: int


def ladder(seed: int, kinds: str = "first") -> Ladder:
    """The ladder of a seed, of one of the `kinds` of KINDS."""
    rng = np.random.default_rng((seed, RUNGS))
    kind = int(rng.choice(KINDS[kinds]))
    low, high = RANGES[kind]
    mild = rng.uniform(0, 1 - GAP)
    severe = rng.uniform(mild + GAP, 1)
    milder, worse = (low * math.exp(place * math.log(high / low)) for place in (mild, severe))
    return Ladder(kind, (milder, worse), seed)


@torch.no_grad()
def climb(view: NDArray[np.uint8], steps: Ladder) -> list[NDArray[np.uint8]]:
    """RUNGS views [S, S, 3] uint8, best first; the two distorted ones share their random numbers."""
    x = torch.from_numpy(view.copy()).permute(2, 0, 1)[None].float() / 255
    kind = steps.kind
    apply = damage.KINDS[kind].function or DISTORTIONS[kind].function
    worse = [apply(x, severity, [generator(steps.seed, kind + 1)]) for severity in steps.severities]
    return [view, *((one[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy() for one in worse)]


def ladders(views: Iterable[NDArray[np.uint8]], seed: int, kinds: str = "first") -> Iterator[NDArray[np.uint8]]:
    """RUNGS views for each view, in its place."""
    for number, view in enumerate(views):
        yield from climb(view, ladder(seed * 1_000_003 + number, kinds))


def order_loss(predictions: Tensor) -> Tensor:
    """Mean of how far neighbours fall short of their margin: mean max(0, MARGIN - (better - worse)).

    Args:
        predictions: [K * RUNGS] MOS of K ladders, the images of each together, best first.
    """
    rungs = predictions.view(-1, RUNGS)
    return (MARGIN - (rungs[:, :-1] - rungs[:, 1:])).clamp_min(0).mean()
