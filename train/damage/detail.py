"""Damage to detail: codecs and scalers of today, smear, grain, ringing, displaced and lost parts.

[N, 3, H, W] RGB in 0..1 -> the same, as `distortions.base.Function`.
"""

from __future__ import annotations

import io
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor

from metaqap_fast.train.damage.light import luma
from metaqap_fast.train.distortions.base import Draws, draw, each
from metaqap_fast.train.distortions.filters import gaussian

Pixels = np.ndarray
LOST = 32  # side of a lost block in pixels
SMEAR_RADIUS = 4


def through(x: Tensor, quality: float, _: Draws, *, codec: str, **options: object) -> Tensor:
    """Through one of Pillow's codecs at a quality."""

    def coded(pixels: Pixels) -> Pixels:
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, codec, quality=int(quality), **options)
        return np.asarray(Image.open(out).convert("RGB"))

    return each(coded, x)


webp = partial(through, codec="WEBP", method=2)
avif = partial(through, codec="AVIF", speed=9)


def scaled(x: Tensor, factor: float, _: Draws, *, how: Image.Resampling) -> Tensor:
    """Down by a factor, antialiased, and up again by nearest, bilinear, bicubic or Lanczos interpolation."""

    def again(pixels: Pixels) -> Pixels:
        image = Image.fromarray(pixels)
        small = (max(1, round(image.width / factor)), max(1, round(image.height / factor)))
        return np.asarray(image.resize(small, Image.Resampling.BOX).resize(image.size, how))

    return each(again, x)


nearest = partial(scaled, how=Image.Resampling.NEAREST)
bilinear = partial(scaled, how=Image.Resampling.BILINEAR)
bicubic = partial(scaled, how=Image.Resampling.BICUBIC)
lanczos = partial(scaled, how=Image.Resampling.LANCZOS)


def smear(x: Tensor, epsilon: float, _: Draws) -> Tensor:
    """A guided filter (He et al. 2010) with itself as guide: edges stay, texture goes, as denoising in phones does."""
    mean = _box(x)
    variance = _box(x * x) - mean * mean
    gain = variance / (variance + epsilon)
    return (_box(gain) * x + _box(mean * (1 - gain))).clamp(0, 1)


def median(x: Tensor, side: float, _: Draws) -> Tensor:
    """The median of a square of pixels, of each channel."""
    return each(lambda pixels: np.asarray(Image.fromarray(pixels).filter(ImageFilter.MedianFilter(int(side)))), x)


def ringing(x: Tensor, amount: float, _: Draws) -> Tensor:
    """An unsharp mask of one pixel's radius: halos along edges."""
    return (x + amount * (x - gaussian(x, 1.0))).clamp(0, 1)


def film_grain(x: Tensor, deviation: float, draws: Draws) -> Tensor:
    """Gray noise of more than a pixel's size, strongest in the middle tones."""
    noise = draw(draws, lambda g: g.standard_normal((1, *x.shape[2:]), dtype=np.float32), x)
    grain = gaussian(noise, 0.8)
    grain = grain / grain.std((2, 3), keepdim=True)
    gray = luma(x)
    return (x + deviation * grain * (0.4 + 2.4 * gray * (1 - gray))).clamp(0, 1)


def shot_noise(x: Tensor, photons: float, draws: Draws) -> Tensor:
    """Light counted in photons, so many at white, and developed again."""
    light = x.clamp(0, 1) ** 2.2 * photons
    noise = draw(draws, lambda g: g.standard_normal(tuple(x.shape[1:]), dtype=np.float32), x)
    return ((light + light.sqrt() * noise).clamp_min(0) / photons).clamp(0, 1) ** (1 / 2.2)


def channel_shift(x: Tensor, pixels: float, draws: Draws) -> Tensor:
    """Red and blue displaced by so many pixels, in opposite directions."""
    step = int(pixels)
    shifted = []
    for image, generator in zip(x, draws, strict=True):
        axis, sign = int(generator.integers(1, 3)), int(generator.choice([-1, 1]))
        padded = F.pad(image[None], (step, step, step, step), mode="replicate")[0]
        red, green, blue = padded
        moved = (torch.roll(red, sign * step, axis - 1), green, torch.roll(blue, -sign * step, axis - 1))
        shifted.append(torch.stack(moved)[:, step:-step, step:-step])
    return torch.stack(shifted)


def lost_blocks(x: Tensor, count: float, draws: Draws) -> Tensor:
    """So many squares per 512 x 512 pixels that a transmission lost: gray, or their left neighbour again."""
    out = x.clone()
    height, width = x.shape[2:]
    number = max(1, round(count * height * width / 512**2))
    for image, generator in zip(out, draws, strict=True):
        # A row for each block, so that what is lost at one level is lost at every higher one.
        drawn = generator.random((number, 3)) * (max(1, height // LOST), max(1, width // LOST), 2)
        for row, column, plain in drawn.astype(int).tolist():
            top, left = row * LOST, column * LOST
            block = image[:, top : top + LOST, left : left + LOST]
            if plain or left < LOST:
                block[:] = 0.5
            else:
                block[:] = image[:, top : top + LOST, left - LOST : left - LOST + block.shape[2]].clone()
    return out


def _box(x: Tensor) -> Tensor:
    """Mean over a square around every pixel, edges replicated."""
    padded = F.pad(x, (SMEAR_RADIUS,) * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * SMEAR_RADIUS + 1, 1)
