"""What the distortions share: the record of one, the stretch around each, and the random numbers of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Draws = Sequence[np.random.Generator]  # one generator per image of a group
Function = Callable[[Tensor, float, Draws], Tensor]


@dataclass(frozen=True, slots=True)
class Distortion:
    """One of the 25 kinds.

    Attributes:
        id: 1..25, the number in the KADIS generator's list.
        name: short English name.
        levels: the parameter at levels 1..5.
        function: ([N, 3, H, W] RGB in 0..1, parameter, N generators) -> [N, 3, H, W], not yet stretched.
        ordered: a higher level is a more severe distortion.
    """

    id: int
    name: str
    levels: tuple[float, float, float, float, float]
    function: Function
    ordered: bool = True


def stretch(images: Tensor) -> Tensor:
    """Each image [N, 3, H, W] stretched so that the smallest value of all its channels is 0 and the largest 1.

    Exactly the identity on an image that already reaches from 0 to 1. An image of one single value has no range:
    it is clipped to 0..1 instead.
    """
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    flat = high <= low
    stretched = (images - torch.where(flat, 0, low)) / torch.where(flat, 1, high - low)
    return stretched.clamp(0, 1)


def generator(seed: int, kind: int) -> np.random.Generator:
    """The random numbers of one image, always drawn on the CPU.

    The level is left out on purpose: the levels of one seed share their draw (the same angle, the same noise
    pattern), and differ in severity alone.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed & (2**64 - 1), kind])))


def draw(generators: Draws, sample: Callable[[np.random.Generator], np.ndarray], like: Tensor) -> Tensor:
    """One float32 array per generator, stacked along the first axis, on the device of `like`."""
    return torch.from_numpy(np.stack([sample(g) for g in generators]).astype(np.float32)).to(like.device)


def singles(x: Tensor) -> list[Tensor]:
    """The images of x [N, C, H, W], each [1, C, H, W]."""
    return [x[i : i + 1] for i in range(len(x))]


def to_uint8(image: Tensor) -> np.ndarray:
    """One image [3, H, W] in 0..1 as [H, W, 3] uint8, rounded to nearest: what codecs and palettes take."""
    pixels: np.ndarray = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
    return pixels


def from_uint8(pixels: np.ndarray, like: Tensor) -> Tensor:
    """[H, W, 3] uint8 -> [3, H, W] float32 in 0..1 on the device of `like`."""
    return torch.from_numpy(np.array(pixels)).to(like.device).permute(2, 0, 1).float() / 255


def each(function: Callable[[np.ndarray], np.ndarray], x: Tensor) -> Tensor:
    """A function of [H, W, 3] uint8 (a codec, a palette) over the images of x [N, 3, H, W]."""
    return torch.stack([from_uint8(function(to_uint8(image)), x) for image in x])
