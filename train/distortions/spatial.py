"""Displacements and blocks: kinds 19 (jitter), 20 (non-eccentricity patches), 21 (pixelate), 23 (colour blocks)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from metaqap_fast.train.distortions.base import Draws, draw

JITTER_PASSES = 5
PATCH, PATCH_REACH = 16, 8
BLOCK = 32


def jitter(x: Tensor, amount: float, draws: Draws) -> Tensor:
    """19: five times over, each pixel is taken from a place N(0, a) pixels away in x and in y, bicubic."""
    shape = tuple(x.shape[2:])
    for _ in range(JITTER_PASSES):
        offset = draw(draws, lambda g: g.standard_normal((2, *shape), dtype=np.float32), x)
        x = displaced(x, amount * offset[:, 0], amount * offset[:, 1])
    return x.clamp(0, 1)


def displaced(x: Tensor, dy: Tensor, dx: Tensor) -> Tensor:
    """x [N, C, H, W] read at (y + dy, x + dx), both [N, H, W], by Keys' cubic convolution; edges replicated.

    Not `grid_sample`: its cubic has a = -.75, half as steep again as the image between pixels, and would make
    small displacements half as large again. Keys' a = -.5 (MATLAB's bicubic) is exact on a slope.
    """
    count, channels, height, width = x.shape
    whole_y, whole_x = dy.floor(), dx.floor()
    weight_y, weight_x = _keys(dy - whole_y), _keys(dx - whole_x)
    row = torch.arange(height, device=x.device)[:, None] + whole_y.long()
    column = torch.arange(width, device=x.device) + whole_x.long()
    columns = [(column + k).clamp(0, width - 1) for k in range(-1, 3)]
    flat = x.reshape(count, channels, -1)
    total = torch.zeros_like(x)
    for i, wy in enumerate(weight_y):
        start = (row + (i - 1)).clamp(0, height - 1) * width
        line = torch.zeros_like(x)
        for at, wx in zip(columns, weight_x, strict=True):
            index = (start + at).reshape(count, 1, -1).expand(-1, channels, -1)
            line += wx[:, None] * flat.gather(2, index).view(x.shape)
        total += wy[:, None] * line
    return total


def _keys(t: Tensor) -> list[Tensor]:
    """Weights of the pixels at -1, 0, 1, 2 for a place t in 0..1 (Keys 1981, a = -1/2)."""
    t2, t3 = t * t, t * t * t
    return [-t3 / 2 + t2 - t / 2, 1.5 * t3 - 2.5 * t2 + 1, -1.5 * t3 + 2 * t2 + t / 2, t3 / 2 - t2 / 2]


def patches(x: Tensor, count: float, draws: Draws) -> Tensor:
    """20: so many 16x16 patches of the image copied to a spot up to 8 pixels off in x and in y, inside the image."""
    out = x.clone()
    height, width = x.shape[2:]
    size = min(PATCH, height, width)
    for image, target, g in zip(x, out, draws, strict=True):
        low, high = [0, 0, -PATCH_REACH, -PATCH_REACH], [height - size + 1, width - size + 1, *[PATCH_REACH + 1] * 2]
        drawn = g.integers(low, high, (int(count), 4))
        corner, moved = drawn[:, :2], drawn[:, :2] + drawn[:, 2:]
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
        drawn = g.random((int(count), 5), dtype=np.float32)
        corner = (drawn[:, :2] * [max(height - BLOCK, 0) + 1, max(width - BLOCK, 0) + 1]).astype(np.int64)
        colours = torch.from_numpy(drawn[:, 2:]).to(x.device)
        for (y, x0), colour in zip(corner, colours, strict=True):
            image[:, y : y + BLOCK, x0 : x0 + BLOCK] = colour[:, None, None]
    return out
