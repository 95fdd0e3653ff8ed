"""What heads read off an activation: its mean, standard deviation and maximum over space.

`pool` is the definition and what is exported; `fast_pool` gives the same values and gradients in a third of the
passes over memory, which is what training is bound by. fp32 sums, whatever the activation's precision.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

EPSILON = 1e-6  # under the root: a flat channel has a gradient


def pool(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, 3 C]: means, standard deviations, maxima."""
    mean = x.mean((2, 3))
    variance = (x - mean[:, :, None, None]).square().mean((2, 3))
    return torch.cat([mean, (variance + EPSILON).sqrt(), x.amax((2, 3))], 1)


def fast_pool(x: Tensor) -> Tensor:
    """`pool` in fp32 for training: [N, C, H, W] of any precision -> [N, 3 C] float32.

    Where a maximum is reached more than once, its gradient goes to one of the places, not evenly to all.
    """
    pooled: Tensor = _Pool.apply(x)
    return pooled


def _pixels(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, H W, C], without a copy for channels-last activations."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        pixels = _pixels(x)
        values = pixels.float()
        mean = values.mean(1)
        square = torch.linalg.vector_norm(values, dim=1).square() / pixels.shape[1]
        deviation = ((square - mean * mean).clamp_min(0) + EPSILON).sqrt()
        maximum, place = pixels.max(1)
        ctx.save_for_backward(x, mean, deviation, place)
        return torch.cat([mean, deviation, maximum.float()], 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        x, mean, deviation, place = ctx.saved_tensors
        pixels = _pixels(x)
        of_mean, of_deviation, of_maximum = gradients[0].chunk(3, 1)
        # d deviation / dx = (x - mean) / (deviation n): one multiply and add for mean and deviation together.
        slope = of_deviation / (deviation * pixels.shape[1])
        offset = of_mean / pixels.shape[1] - slope * mean
        gradient = torch.addcmul(offset[:, None].to(x.dtype), pixels, slope[:, None].to(x.dtype))
        gradient.scatter_add_(1, place[:, None], of_maximum[:, None].to(x.dtype))
        n, _, h, w = x.shape
        return gradient.view(n, h, w, -1).permute(0, 3, 1, 2)
