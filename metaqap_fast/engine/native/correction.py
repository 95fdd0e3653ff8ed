"""What rounding weights to int8 does to means, taken back by the biases.

The errors of a channel's rounded weights, times the means of its inputs, move the mean of its output, in much the same
way for every image, and all that follows is moved with it. Subtracting that from the bias: Nagel et al., arXiv
1906.04721, section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.engine.native.isa import Isa
from metaqap_fast.engine.native.kernel import Kernel
from metaqap_fast.engine.native.layout import aligned_bytes
from metaqap_fast.engine.native.packing import Levels, finest, rounded
from metaqap_fast.engine.native.reader import Block, Convolution, Floats, Network

SPREAD = 4  # deviations that a channel reaches
LEAST = 0.25  # that a channel is enlarged to; sizes are estimates
Doubles = NDArray[np.float64]


def typical(network: Network, isa: Isa, views: NDArray[np.uint8]) -> Doubles:
    """Means over views [N, S, S, 3] uint8 of what the head reads, in floating point (see `Kernel.run`).

    Generated views do: photographs give means that correct no better.
    """
    kernel = Kernel(network, isa)
    memory = aligned_bytes(kernel.workspace)
    found: Doubles = np.mean([kernel.run(view, memory)[1] for view in views], 0, np.float64)
    return found


def corrected(network: Network, taps: Doubles, ranges: Sequence[float], levels: Levels) -> Network:
    """The network for products in int8; `taps` as of `typical`, `ranges` as of `Kernel`.

    What a projection reads has its mean among the taps; an expansion reads what the projections before it gave, whose
    means follow, since between the two nothing is clipped.
    """
    blocks, at, largest = [], 3 * len(network.stem.bias), iter(ranges)
    narrow: Doubles = np.zeros(0)
    for block in network.blocks:
        first = block.expand or block.depthwise
        assert first is not None
        wide, expand, project = taps[at : at + len(first.bias)], block.expand, block.project
        at += 3 * len(wide)
        if expand is not None:
            expand = _without_shift(expand, narrow, levels, finest(levels.step(next(largest)), levels.bits))
        if project is not None:
            means: Doubles = project.weights[:, :, 0, 0] @ wide + project.bias
            narrow = means + narrow if block.residual else means
            next(largest)
            project = _without_shift(project, wide, levels)
        blocks.append(replace(block, expand=expand, project=project))
    return replace(network, blocks=tuple(blocks))


def equalised(network: Network, taps: Doubles) -> Network:
    """The same network, with channels between blocks of more alike sizes, so that one step for all of them fits each.

    A projection's output is divided by what the expansion that reads it is multiplied by. `taps` as of `typical`: they
    give means and, as if inputs were independent, deviations. Blocks that add their input share it: Nagel et al., arXiv
    1906.04721, section 4.1.
    """
    at = 3 * len(network.stem.bias)
    mean = variance = np.zeros(0)
    chains: list[list[Doubles]] = []  # sizes of channels after each block, of blocks that are added up
    for block in network.blocks[:-1]:
        assert block.project is not None
        weights = block.project.weights[:, :, 0, 0].astype(np.float64)
        wide = weights.shape[1]
        means, deviations = taps[at : at + wide], taps[at + wide : at + 2 * wide]
        at += 3 * wide
        found, square = weights @ means + block.project.bias, np.square(weights) @ np.square(deviations)
        if block.residual:
            found, square = found + mean, square + variance
        else:
            chains.append([])
        mean, variance = found, square
        chains[-1].append(np.abs(mean) + SPREAD * np.sqrt(variance))
    blocks: list[Block] = []
    factors = iter(chains)
    factor: Floats = np.ones(1, np.float32)
    for block in network.blocks:
        expand, project = block.expand, block.project
        if expand is not None:
            expand = replace(expand, weights=expand.weights * factor[:, None, None])
        if project is not None:
            if not block.residual:
                size = np.maximum.reduce(next(factors))
                factor = np.clip(size / size.max(), LEAST, 1).astype(np.float32)
            project = replace(
                project, weights=project.weights / factor[:, None, None, None], bias=project.bias / factor
            )
        blocks.append(replace(block, expand=expand, project=project))
    return replace(network, blocks=tuple(blocks))


def _without_shift(each: Convolution, inputs: Doubles, levels: Levels, least: float = 0.0) -> Convolution:
    weights = each.weights[:, :, 0, 0]
    whole, steps = rounded(weights, least, levels.weights)
    shift = (whole * steps[:, None] - weights) @ inputs
    return replace(each, bias=(each.bias - shift).astype(np.float32))
