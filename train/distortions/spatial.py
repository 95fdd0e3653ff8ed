"""Displacements and blocks: kinds 19 (jitter), 20 (non-eccentricity patches), 21 (pixelate), 23 (colour blocks)."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metaqap_fast.train.distortions.base import Draws, draw

JITTER_PASSES = 5
PATCH, PATCH_REACH = 16, 8
BLOCK = 32


def jitter(x: Tensor, amount: float, draws: Draws) -> Tensor:
    """19: five times over, each pixel is taken from a place N(0, a) pixels away in x and in y, bicubic."""
    height, width = x.shape[2:]
    ys = torch.arange(height, device=x.device, dtype=torch.float32)[:, None].expand(height, width)
    xs = torch.arange(width, device=x.device, dtype=torch.float32).expand(height, width)
    base = torch.stack([xs, ys], -1)
    scale = torch.tensor([2 / width, 2 / height], device=x.device)
    for _ in range(JITTER_PASSES):
        offset = draw(draws, lambda g: g.standard_normal((height, width, 2), dtype=np.float32), x)
        grid = (base + amount * offset + 0.5) * scale - 1
        x = F.grid_sample(x, grid, mode="bicubic", padding_mode="border", align_corners=False)
    return x.clamp(0, 1)


def patches(x: Tensor, count: float, draws: Draws) -> Tensor:
    """20: so many 16x16 patches of the image copied to a spot up to 8 pixels off in x and in y, inside the image."""
    out = x.clone()
    height, width = x.shape[2:]
    size = min(PATCH, height, width)
    for image, target, g in zip(x, out, draws, strict=True):
        corner = g.integers(0, [height - size + 1, width - size + 1], (int(count), 2))
        moved = corner + g.integers(-PATCH_REACH, PATCH_REACH + 1, (int(count), 2))
        for (y, x0), (v, u) in zip(corner, moved.clip(0, [height - size, width - size]), strict=True):
            target[:, v : v + size, u : u + size] = image[:, y : y + size, x0 : x0 + size]
    return out


def pixelate(x: Tensor, strength: float, _: Draws) -> Tensor:
    """21: nearest-neighbour down by .95 - s^.6, nearest-neighbour up to the old size."""
    factor = 0.95 - strength**0.6
    height, width = x.shape[2:]
    rows, columns = (_nearest(size, factor, x.device) for size in (height, width))
    return x[:, :, rows][:, :, :, columns]


def _nearest(size: int, factor: float, device: torch.device) -> Tensor:
    """[size] the source index of each pixel after shrinking to ceil(size * factor) and growing again."""
    small = max(1, math.ceil(size * factor))
    down = np.minimum(((np.arange(small) + 0.5) * (size / small)).astype(np.int64), size - 1)
    up = np.minimum(((np.arange(size) + 0.5) * (small / size)).astype(np.int64), small - 1)
    return torch.from_numpy(down[up]).to(device)


def colour_blocks(x: Tensor, count: float, draws: Draws) -> Tensor:
    """23: so many opaque 32x32 squares, each of a random colour at a random place."""
    out = x.clone()
    height, width = x.shape[2:]
    for image, g in zip(out, draws, strict=True):
        corner = g.integers(0, [max(height - BLOCK, 0) + 1, max(width - BLOCK, 0) + 1], (int(count), 2))
        colours = torch.from_numpy(g.random((int(count), 3), dtype=np.float32)).to(x.device)
        for (y, x0), colour in zip(corner, colours, strict=True):
            image[:, y : y + BLOCK, x0 : x0 + BLOCK] = colour[:, None, None]
    return out
