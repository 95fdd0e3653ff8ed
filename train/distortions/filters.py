"""Filters over [N, C, H, W] tensors, edges replicated, with the kernels of MATLAB's `imgaussfilt` and `fspecial`."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metaqap_fast.train.distortions.base import singles


def gaussian_kernel(sigma: float) -> Tensor:
    """[2 r + 1] float64, r = ceil(2 sigma), sum 1."""
    radius = math.ceil(2 * sigma)
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    return weights / weights.sum()


def disk_kernel(radius: float) -> Tensor:
    """[2 r + 1, 2 r + 1] float64, sum 1: the share of each pixel's area that a disk covers."""
    reach = math.ceil(radius - 0.5)
    steps = 2000
    x = np.arange(-reach - 0.5, reach + 0.5, 1 / steps) + 0.5 / steps  # midpoints of thin columns
    half_chord = np.sqrt(np.maximum(radius**2 - x**2, 0))
    y = np.arange(-reach, reach + 1)
    top = np.minimum(half_chord[None], (y + 0.5)[:, None])
    bottom = np.maximum(-half_chord[None], (y - 0.5)[:, None])
    area = np.maximum(top - bottom, 0).reshape(len(y), len(y), steps).mean(2)
    return torch.from_numpy(area / area.sum())


def line_kernel(length: float, angle: float) -> Tensor:
    """[h, w] float64, sum 1: 1 minus the distance of each pixel's centre to a segment, where that is positive.

    The segment is centred, `length` - 1 pixels long, at `angle` radians; at length 1 it is a point and the kernel
    the identity.
    """
    half = (length - 1) / 2
    along = np.array([math.cos(angle), -math.sin(angle)])  # x right, y down
    reach = math.ceil(half)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    position = np.clip(x * along[0] + y * along[1], -half, half)
    distance = np.hypot(x - position * along[0], y - position * along[1])
    weights = np.maximum(1 - distance, 0)
    return torch.from_numpy(weights / weights.sum())


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of x [N, C, H, W]."""
    kernel = gaussian_kernel(sigma)
    return convolve(convolve(x, kernel[:, None]), kernel[None])


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """Correlation of every channel of x [N, C, H, W] with one kernel [kh, kw], odd sizes, edges replicated.

    Runs image by image: a convolution library may choose another algorithm, with other rounding, for another
    batch size. For the same reason TF32 is off.
    """
    kh, kw = kernel.shape
    weight = kernel.to(x.device, x.dtype).expand(x.shape[1], 1, kh, kw).contiguous()
    padded = F.pad(x, (kw // 2, kw // 2, kh // 2, kh // 2), mode="replicate")
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        return torch.cat([F.conv2d(one, weight, groups=x.shape[1]) for one in singles(padded)])
