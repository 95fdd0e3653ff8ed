"""Noise: kinds 11 to 15. Parameters are variances on the 0..1 scale, or a density."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from metaqap_fast.train.distortions.base import Draws, draw
from metaqap_fast.train.distortions.denoise import denoise_standin
from metaqap_fast.train.distortions.spaces import rgb_to_ycbcr, ycbcr_to_rgb


def _normal(x: Tensor, draws: Draws) -> Tensor:
    return draw(draws, lambda g: g.standard_normal(tuple(x.shape[1:]), dtype=np.float32), x)


def white_noise(x: Tensor, variance: float, draws: Draws) -> Tensor:
    """11: Gaussian noise on RGB."""
    return (x + math.sqrt(variance) * _normal(x, draws)).clamp(0, 1)


def component_noise(x: Tensor, variance: float, draws: Draws) -> Tensor:
    """12: Gaussian noise on Y, Cb and Cr."""
    noisy = rgb_to_ycbcr(x) + math.sqrt(variance) * _normal(x, draws)
    return ycbcr_to_rgb(noisy.clamp(0, 1)).clamp(0, 1)


def impulse_noise(x: Tensor, density: float, draws: Draws) -> Tensor:
    """13: a share `density` of all values, each channel for itself, becomes 0 or 1, one as often as the other."""
    u = draw(draws, lambda g: g.random(tuple(x.shape[1:]), dtype=np.float32), x)
    return torch.where(u < density / 2, 0.0, torch.where(u < density, 1.0, x))


def multiplicative_noise(x: Tensor, variance: float, draws: Draws) -> Tensor:
    """14: x + n x, n uniform with mean zero and this variance."""
    n = draw(draws, lambda g: g.random(tuple(x.shape[1:]), dtype=np.float32), x)
    return (x + math.sqrt(12 * variance) * (n - 0.5) * x).clamp(0, 1)


def denoised(x: Tensor, variance: float, draws: Draws) -> Tensor:
    """15: Gaussian noise of this variance, then `denoise_standin`: the original's DnCNN is not used here."""
    return denoise_standin(white_noise(x, variance, draws), math.sqrt(variance)).clamp(0, 1)
