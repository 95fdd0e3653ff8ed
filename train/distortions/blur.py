"""Blurs and the unsharp mask: kinds 1, 2, 3 and 24."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metaqap_fast.train.distortions.base import Draws, singles
from metaqap_fast.train.distortions.filters import convolve, disk_kernel, gaussian, line_kernel
from metaqap_fast.train.distortions.spaces import lab_to_rgb, rgb_to_lab

SHARPEN_SIGMA = 3.0  # the mask's "radius" is the Gaussian's sigma, as in MATLAB's imsharpen


def gaussian_blur(x: Tensor, sigma: float, _: Draws) -> Tensor:
    """1: Gaussian blur. At sigma .1 the kernel's neighbours weigh 2e-22: the identity in float32."""
    return gaussian(x, sigma)


def lens_blur(x: Tensor, radius: float, _: Draws) -> Tensor:
    """2: average over a disk."""
    return convolve(x, disk_kernel(radius))


def motion_blur(x: Tensor, length: float, draws: Draws) -> Tensor:
    """3: average along a line at an angle uniform in 0..180 degrees; length 1 is the identity."""
    kernels = [line_kernel(length, g.uniform(0, math.pi)) for g in draws]
    return torch.cat([convolve(one, kernel) for one, kernel in zip(singles(x), kernels, strict=True)])


def sharpen(x: Tensor, amount: float, _: Draws) -> Tensor:
    """24: unsharp mask on L*."""
    lab = rgb_to_lab(x)
    light = lab[:, :1]
    return lab_to_rgb(torch.cat([light + amount * (light - gaussian(light, SHARPEN_SIGMA)), lab[:, 1:]], 1))
