"""Colour: kinds 4 (diffusion), 5 (shift), 7 and 8 (saturation)."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metaqap_fast.train.distortions.base import Draws, singles
from metaqap_fast.train.distortions.filters import convolve, gaussian
from metaqap_fast.train.distortions.spaces import lab_to_rgb, rgb_to_lab

_SOBEL = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]], dtype=torch.float64)
_LUMA = (0.2989, 0.5870, 0.1140)


def colour_diffusion(x: Tensor, amount: float, _: Draws) -> Tensor:
    """4: a* and b* blurred with sigma 1.5 a + 2, then multiplied by a."""
    lab = rgb_to_lab(x)
    return lab_to_rgb(torch.cat([lab[:, :1], gaussian(lab[:, 1:], 1.5 * amount + 2) * amount], 1))


def colour_shift(x: Tensor, amount: float, draws: Draws) -> Tensor:
    """5: the green channel displaced by round(a u), u a unit vector of the first quadrant, where there are edges.

    Red and blue stay as they are. The uncovered border repeats the edge.
    """
    shifted = torch.cat([_displaced(one[:, 1:2], amount, g) for one, g in zip(singles(x), draws, strict=True)])
    mask = edge_mask(x)
    green = mask * shifted + (1 - mask) * x[:, 1:2]
    return torch.cat([x[:, :1], green, x[:, 2:]], 1)


def _displaced(channel: Tensor, amount: float, g: np.random.Generator) -> Tensor:
    angle = g.uniform(0, math.pi / 2)
    dx, dy = round(amount * math.cos(angle)), round(amount * math.sin(angle))
    height, width = channel.shape[2:]
    return F.pad(channel, (dx, 0, dy, 0), mode="replicate")[..., :height, :width]


def edge_mask(x: Tensor) -> Tensor:
    """[N, 1, H, W] in 0..1: Sobel gradient magnitude of the gray image, blurred with sigma 4, its 1 % and 99 %
    quantiles stretched to 0 and 1.
    """
    gray = _LUMA[0] * x[:, :1] + _LUMA[1] * x[:, 1:2] + _LUMA[2] * x[:, 2:]
    edges = gaussian(torch.hypot(convolve(gray, _SOBEL), convolve(gray, _SOBEL.T)), 4.0)
    ordered = edges.flatten(1).sort(1).values
    low, high = (ordered[:, round(q * (ordered.shape[1] - 1))].view(-1, 1, 1, 1) for q in (0.01, 0.99))
    return ((edges - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)


def saturation_hsv(x: Tensor, factor: float, _: Draws) -> Tensor:
    """7: S of HSV times f. With V and H kept that is V - f (V - RGB), for a negative f too (the opposite hue)."""
    value = x.amax(1, keepdim=True)
    return value - factor * (value - x)


def saturation_lab(x: Tensor, factor: float, _: Draws) -> Tensor:
    """8: a* and b* times s; at 1 the identity up to rounding."""
    lab = rgb_to_lab(x)
    return lab_to_rgb(torch.cat([lab[:, :1], lab[:, 1:] * factor], 1))
