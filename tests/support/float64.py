"""A network in float64, exactly or with errors as large as float32's, so that a tolerance follows from the arithmetic.

A sum of n terms in float32, made in any order, is off by more than k * sqrt(n) * u * sum(|term|) with a probability of
2 exp(-k^2 / 2) at most (u = 2^-24; Higham and Mary, "A new approach to probabilistic rounding error analysis", 2019).
With k = 8 that is none in 10^9 sums, and a network here makes fewer. `pooled` draws errors of that size for k = 1 in
every sum and carries them through the rest of the network; K times what they do to its results is what rounding can do.

That holds for terms whose errors are independent. Equal terms, of which a flat part of a picture gives thousands, round
alike: OpenVINO adds the pixels of a channel one by one on CPUs with AVX2 alone, and is off by 2e-4 of a mean there. So
each distinct value of a channel counts with the square of how often it is there, and n is the sum of these.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from metaqap_fast.engine.native.reader import Convolution, Network

UNIT = 2.0**-24
K = 8
Pooled = list[tuple[NDArray[np.float64], ...]]  # mean, deviation and maximum of each tap


@torch.no_grad()
def pooled(network: Network, view: NDArray[np.uint8], errors: int | None = None) -> Pooled:
    """What the head reads of a view [S, S, 3]; with a seed in `errors`, as a computation in float32 might give it."""
    random = None if errors is None else torch.Generator().manual_seed(errors)

    def off(value: Tensor, size: Tensor, terms: Tensor | int) -> Tensor:
        if random is None:
            return value
        return value + (2 * torch.rand(value.shape, generator=random) - 1) * (UNIT * terms**0.5 * size)

    def convolved(x: Tensor, each: Convolution, weights: Tensor) -> Tensor:
        kernel, stride, groups = weights.shape[-1], each.stride, len(weights) if weights.shape[1] == 1 else 1
        (height, width), (top, left) = each.size, each.pads
        bottom, right = ((-(-n // stride) - 1) * stride + kernel - n - p for n, p in ((height, top), (width, left)))
        x, bias = F.pad(x, (left, right, top, bottom)), double(each.bias)
        found = F.conv2d(x, weights, bias, stride, groups=groups)
        if random is None:
            return found
        size = F.conv2d(x.abs().float(), weights.abs().float(), bias.abs().float(), stride, groups=groups)
        return off(found, size, weights[0].numel() + 1)

    def statistics(tap: Tensor) -> tuple[NDArray[np.float64], ...]:
        count = 0 if random is None else independent(tap[0].flatten(1).float())
        mean, square = tap.mean((2, 3))[0], tap.var((2, 3), correction=0)[0]
        deviation = (off(square, square, count) + network.epsilon).sqrt()
        return off(mean, mean, count).numpy(), deviation.numpy(), tap.amax((2, 3))[0].numpy()

    mean, scale = (double(values).view(1, 3, 1, 1) for values in (network.mean, network.scale))
    x = torch.from_numpy(view).permute(2, 0, 1)[None].double() - mean
    x = convolved(x, network.stem, double(network.stem.weights) * scale).clamp(0, 6)
    found = [statistics(x)]
    for block in network.blocks:
        begin = x
        if block.expand is not None:
            x = convolved(x, block.expand, double(block.expand.weights)).clamp(0, 6)
        if block.depthwise is not None:
            x = convolved(x, block.depthwise, double(block.depthwise.weights)).clamp(0, 6)
        found.append(statistics(x))
        if block.project is not None:
            x = convolved(x, block.project, double(block.project.weights))
            x = x + begin if block.residual else x
    return found


def independent(values: Tensor) -> Tensor:
    """The n of the sum of each channel: [channels, pixels] to [channels]."""
    counts = (torch.unique(channel, return_counts=True)[1] for channel in values)
    return torch.stack([count.double().square().sum() for count in counts])


def flat(found: Pooled) -> NDArray[np.float64]:
    """As the kernel gives it."""
    return np.concatenate([part for parts in found for part in parts])


def double(values: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(values.astype(np.float64))
