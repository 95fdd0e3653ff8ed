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

from metaqap_fast.engine.native.library import Kernel, aligned_bytes
from metaqap_fast.engine.native.packing import finest, rounded
from metaqap_fast.engine.native.reader import Convolution, Network

Doubles = NDArray[np.float64]


def typical(network: Network, how: int, views: NDArray[np.uint8]) -> Doubles:
    """Means over views [N, S, S, 3] uint8 of what the head reads, in bf16 (see `Kernel.run`). Generated views do:
    photographs give means that correct no better."""
    kernel = Kernel(network, how)
    memory = aligned_bytes(kernel.workspace)
    found: Doubles = np.mean([kernel.run(view, memory)[1] for view in views], 0, np.float64)
    return found


def corrected(network: Network, taps: Doubles, ranges: Sequence[float]) -> Network:
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
            expand = _without_shift(expand, narrow, finest(next(largest) / 127))
        if project is not None:
            means: Doubles = project.weights[:, :, 0, 0] @ wide + project.bias
            narrow = means + narrow if block.residual else means
            next(largest)
            project = _without_shift(project, wide)
        blocks.append(replace(block, expand=expand, project=project))
    return replace(network, blocks=tuple(blocks))


def _without_shift(each: Convolution, inputs: Doubles, least: float = 0.0) -> Convolution:
    weights = each.weights[:, :, 0, 0]
    whole, steps = rounded(weights, least)
    shift = (whole * steps[:, None] - weights) @ inputs
    return replace(each, bias=(each.bias - shift).astype(np.float32))
