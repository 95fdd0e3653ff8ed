"""Every kind of damage that models learn from: the 25 of KADIS, today's codecs and scalers, light, and no damage.

`damaged` puts a view through one or two kinds. A kind has five levels, of which the first is the mildest, or one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from metaqap_fast.decode.views import cut
from metaqap_fast.train.damage import detail, light
from metaqap_fast.train.distortions import DISTORTIONS, distort
from metaqap_fast.train.distortions.base import Draws, Function, from_uint8, generator, to_uint8
from metaqap_fast.train.distortions.blur import gaussian_blur, lens_blur, motion_blur
from metaqap_fast.train.distortions.compression import jpeg
from metaqap_fast.train.distortions.noise import white_noise

View = NDArray[np.uint8]
KADIS = len(DISTORTIONS)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of damage.

    Attributes:
        name: short English name.
        levels: the parameter of each level, mildest first.
        function: see `distortions.base.Function`; None for those of KADIS, which `distort` applies.
        opinions: what people would say of each level, 1 (worst) to 5 (best), by likeness to kinds that were rated, or
            because it does no harm; None for those of KADIS, which were rated themselves.
        ordered: a higher level is more severe.
        like: the rated kind that it is another form of: left out of training together; empty where there is none.
    """

    name: str
    levels: tuple[float, ...]
    function: Function | None
    opinions: tuple[float, ...] | None = None
    ordered: bool = True
    like: str = ""


class Step(NamedTuple):
    """A kind, by its place in KINDS, and its level from 0."""

    kind: int
    level: int


def _mirrored(x: Tensor, _: float, __: Draws) -> Tensor:
    return x.flip(3)


def _turned(x: Tensor, _: float, __: Draws) -> Tensor:
    return x.flip(2)


def _bordered(x: Tensor, share: float, _: Draws) -> Tensor:
    out, margin = x.clone(), max(1, round(share * x.shape[3]))
    out[..., :margin, :] = out[..., -margin:, :] = 0
    out[..., :margin] = out[..., -margin:] = 0
    return out


def _small(x: Tensor, share: float, _: Draws) -> Tensor:
    """A smaller copy, in the view that scoring makes of it: not enlarged, but extended by mirroring."""
    side = x.shape[3]

    def copy(pixels: View) -> View:
        size = (round(side * share), round(pixels.shape[0] * share))
        small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
        return np.asarray(cut(small, side)[0])

    return torch.stack([from_uint8(copy(to_uint8(image)), x) for image in x])


BEST = 4.6  # mean opinion of the levels of KADID that leave a photograph as it is
_RATED = tuple(Kind(one.name, one.levels, None, ordered=one.ordered) for one in DISTORTIONS)
_BETWEEN = (  # opinions between those of rated kinds of the same mechanism
    Kind("JPEG, between", (90, 70, 55, 30, 14), jpeg, (4.6, 4.5, 4.4, 4.05, 3.0), like="JPEG"),
    Kind("WebP", (75, 40, 20, 8, 1), detail.webp, (4.5, 4.2, 3.7, 2.8, 1.8)),
    Kind("AVIF", (65, 45, 30, 16, 4), detail.avif, (4.5, 4.2, 3.6, 2.6, 1.5)),
    Kind("upscaled, nearest", (1.33, 2, 3, 4, 6), detail.nearest, (3.2, 2.6, 1.7, 1.4, 1.2), like="pixelate"),
    Kind("upscaled, bilinear", (1.33, 2, 3, 4, 6), detail.bilinear, (4.2, 3.3, 2.3, 1.8, 1.4)),
    Kind("upscaled, bicubic", (1.33, 2, 3, 4, 6), detail.bicubic, (4.3, 3.5, 2.5, 2.0, 1.5)),
    Kind("upscaled, Lanczos", (1.33, 2, 3, 4, 6), detail.lanczos, (4.35, 3.6, 2.6, 2.0, 1.5)),
    Kind("smear", (0.0005, 0.002, 0.006, 0.02, 0.06), detail.smear, (4.2, 3.4, 2.7, 2.1, 1.7), like="denoise"),
    Kind("median", (3, 5, 7, 9, 13), detail.median, (3.6, 2.7, 2.2, 1.8, 1.5), like="denoise"),
    Kind("ringing", (1, 2, 4, 7, 12), detail.ringing, (4.2, 3.6, 2.7, 2.0, 1.5), like="sharpen"),
    Kind("film grain", (0.03, 0.05, 0.08, 0.12, 0.18), detail.film_grain, (4.0, 3.4, 2.8, 2.3, 1.8)),
    Kind("shot noise", (300, 100, 40, 15, 6), detail.shot_noise, (4.2, 3.6, 2.9, 2.2, 1.6)),
    Kind(
        "white noise, wider",
        (0.0004, 0.002, 0.02, 0.04, 0.08),
        white_noise,
        (4.4, 3.4, 1.8, 1.5, 1.2),
        like="white noise",
    ),
    Kind(
        "Gaussian blur, between", (0.8, 1.4, 2.8, 4, 8), gaussian_blur, (3.5, 2.4, 1.65, 1.4, 1.1), like="Gaussian blur"
    ),
    Kind("lens blur, between", (1.5, 3, 5, 7, 12), lens_blur, (3.3, 2.2, 1.6, 1.35, 1.1), like="lens blur"),
    Kind("motion blur, wider", (5, 8, 14, 20, 30), motion_blur, (2.4, 1.95, 1.5, 1.3, 1.15), like="motion blur"),
)
_ASSUMED = (  # by likeness to rated kinds: brighten, darken, contrast, saturation, quantisation, shift, blocks
    Kind("over-exposure", (1.3, 1.7, 2.2, 3, 4.5), light.exposure, (4.5, 4.1, 3.3, 2.5, 1.7), like="brighten"),
    Kind("under-exposure", (0.7, 0.45, 0.28, 0.15, 0.08), light.exposure, (4.5, 4.2, 3.5, 2.4, 1.6), like="darken"),
    Kind("colour cast", (0.05, 0.1, 0.17, 0.27, 0.4), light.colour_cast, (4.45, 4.1, 3.5, 2.8, 2.1)),
    Kind("haze", (0.12, 0.25, 0.4, 0.55, 0.72), light.haze, (4.4, 4.0, 3.3, 2.7, 2.0)),
    Kind(
        "contrast loss", (0.8, 0.62, 0.45, 0.3, 0.17), light.contrast_loss, (4.45, 4.0, 3.3, 2.6, 1.8), like="contrast"
    ),
    Kind(
        "over-saturation",
        (1.4, 1.8, 2.4, 3.2, 4.5),
        light.over_saturation,
        (4.4, 3.8, 3.0, 2.3, 1.7),
        like="saturation, Lab",
    ),
    Kind("banding", (28, 18, 12, 8, 5), light.banding, (4.4, 4.0, 3.6, 3.1, 2.4), like="quantisation"),
    Kind("channel shift", (1, 2, 4, 6, 10), detail.channel_shift, (4.2, 3.4, 2.7, 2.2, 1.9), like="colour shift"),
    Kind("lost blocks", (2, 6, 14, 30, 60), detail.lost_blocks, (3.6, 3.1, 2.7, 2.3, 1.9), like="colour block"),
)
_PROBES = (
    Kind("black and white", (0,), light.black_and_white, (BEST,), like="saturation, HSV"),
    Kind("sepia", (0,), light.sepia, (4.4,)),
    Kind("negative", (0,), light.negative, (2.5,)),
    Kind("mirrored", (0,), _mirrored, (BEST,)),
    Kind("upside down", (0,), _turned, (4.5,)),
    Kind("black border", (0.04,), _bordered, (4.5,)),
    Kind("JPEG at quality 95", (95,), jpeg, (4.55,)),
    Kind("half the size", (0.5,), _small, (4.4,)),
    Kind("quarter of the size", (0.25,), _small, (4.2,)),
)
KINDS: tuple[Kind, ...] = (*_RATED, *_BETWEEN, *_ASSUMED, *_PROBES)
LADDERS = range(len(KINDS) - len(_PROBES))  # kinds of five levels
PROBES = range(len(LADDERS), len(KINDS))


def named(name: str) -> int:
    """The place of a kind in KINDS."""
    return next(place for place, kind in enumerate(KINDS) if kind.name == name)


@torch.no_grad()
def damaged(view: View, steps: Sequence[Step], seed: int) -> View:
    """A view [S, S, 3] uint8 after one kind of damage or several, in their order; the levels of a seed share its draw.

    Without steps it is the view itself.
    """
    x = torch.from_numpy(view.copy()).permute(2, 0, 1)[None].float() / 255
    for kind, level in steps:
        one = KINDS[kind]
        if one.function is None:
            x = distort(x, [kind + 1], [level + 1], [seed])
        else:
            x = one.function(x, one.levels[level], [generator(seed, kind + 1)])
    return view if not steps else to_uint8(x[0])
