"""Damage to light, colour and tone: [N, 3, H, W] RGB in 0..1 -> the same, as `distortions.base.Function`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metaqap_fast.train.distortions.base import Draws, draw

GAMMA = 2.2  # of the display: light is proportional to values to this power
LUMA = (0.299, 0.587, 0.114)


def exposure(x: Tensor, factor: float, _: Draws) -> Tensor:
    """So much more or less light; what is over white is lost, what is dark is rounded away afterwards."""
    return (x.clamp_min(0) * math.pow(factor, 1 / GAMMA)).clamp(0, 1)


def colour_cast(x: Tensor, strength: float, draws: Draws) -> Tensor:
    """Channels times 1 + strength along one direction of colour, at about the same luminance."""
    angle = draw(draws, lambda g: g.uniform(0, 2 * math.pi, 1), x)
    third = 2 * math.pi / 3
    gains = torch.stack([torch.cos(angle), torch.cos(angle - third), torch.cos(angle + third)], 1)  # [N, 3, 1]
    gains = gains[..., None] * strength
    weights = torch.tensor(LUMA, device=x.device)[None, :, None, None]
    return (x * (1 + gains - (gains * weights).sum(1, keepdim=True))).clamp(0, 1)


def haze(x: Tensor, density: float, draws: Draws) -> Tensor:
    """A veil of bright air, denser towards the top."""
    air = draw(draws, lambda g: g.uniform(0.75, 0.95, 1), x)[..., None, None]
    height = torch.linspace(1.15, 0.85, x.shape[2], device=x.device)[None, None, :, None]
    veil = (density * height).clamp(0, 1)
    return x * (1 - veil) + air * veil


def contrast_loss(x: Tensor, factor: float, _: Draws) -> Tensor:
    """Values drawn towards their mean."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * factor


def over_saturation(x: Tensor, factor: float, _: Draws) -> Tensor:
    """Colour differences from the luma times a factor, clipped."""
    gray = luma(x)
    return (gray + (x - gray) * factor).clamp(0, 1)


def banding(x: Tensor, levels: float, _: Draws) -> Tensor:
    """Every channel rounded to so many equal steps, without dither."""
    steps = levels - 1
    return (x * steps).round() / steps


def black_and_white(x: Tensor, _: float, __: Draws) -> Tensor:
    """The luma alone: no damage."""
    return luma(x).expand_as(x).clone()


def sepia(x: Tensor, _: float, __: Draws) -> Tensor:
    """The luma in brown."""
    tint = torch.tensor((1.07, 1.0, 0.82), device=x.device)[None, :, None, None]
    return (luma(x) * tint).clamp(0, 1)


def negative(x: Tensor, _: float, __: Draws) -> Tensor:
    """Every value turned to its complement."""
    return 1 - x


def luma(x: Tensor) -> Tensor:
    """[N, 3, H, W] -> [N, 1, H, W] of BT.601."""
    weights = torch.tensor(LUMA, device=x.device)[None, :, None, None]
    return (x * weights).sum(1, keepdim=True)
