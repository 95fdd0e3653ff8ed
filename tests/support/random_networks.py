"""Networks of random shapes for the native kernel, and what they compute, in float64 with bounds of fp32's rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from metaqap_fast.engine.native.reader import Block, Convolution, Network

UNIT = 2.0**-24
NONE = np.zeros((0, 0), np.float32), np.zeros(0, np.float32)  # outputs beside the prediction
Doubles = NDArray[np.float64]
# A block: wide channels (0: those of the stem), kernel, stride, pads, outputs (0: as many as inputs, which are added).
Shape = tuple[int, int, int, tuple[int, int], int]


def shape_of(size: int, pads: tuple[int, int], stem: int, last: int, *blocks: Shape) -> dict[str, Any]:
    """Of a network."""
    return {"size": size, "pads": pads, "stem": stem, "last": last, "blocks": list(blocks)}


EXAMPLES = [
    shape_of(33, (1, 1), 19, 35, (0, 3, 1, (1, 1), 7), (21, 5, 2, (2, 1), 9)),
    shape_of(64, (0, 0), 32, 80, (0, 3, 1, (1, 1), 16), (96, 3, 2, (0, 0), 24), (144, 5, 1, (2, 2), 0)),
    shape_of(47, (0, 1), 5, 1, (0, 5, 2, (2, 2), 1), (3, 3, 1, (1, 1), 0)),
    shape_of(2, (0, 0), 1, 17, (0, 3, 1, (1, 1), 33)),
]


@st.composite
def networks(draw: st.DrawFn) -> dict[str, Any]:
    """A shape, as of EXAMPLES."""
    channels = st.integers(1, 70)
    blocks = []
    for i in range(draw(st.integers(1, 3))):
        kernel, stride = draw(st.sampled_from([3, 5])), draw(st.sampled_from([1, 2]))
        pads = (draw(st.integers(0, kernel // 2)), draw(st.integers(0, kernel // 2)))
        same = draw(st.booleans()) and i > 0
        blocks.append(
            (0 if i == 0 else draw(channels), kernel, 1 if same else stride, pads, 0 if same else draw(channels))
        )
    pads = (draw(st.integers(0, 1)), draw(st.integers(0, 1)))
    return {
        "size": draw(st.integers(1, 80)),
        "pads": pads,
        "stem": draw(channels),
        "blocks": blocks,
        "last": draw(channels),
    }


def view_of(seed: int, size: int) -> NDArray[np.uint8]:
    """A view whose pixels are not independent, [size, size, 3]."""
    random = np.random.default_rng(seed)
    steps = random.integers(-40, 41, (size, size, 3)).cumsum(0) + random.integers(0, 256, (1, size, 3))
    return (np.abs(steps) % 256).astype(np.uint8)


def network_of(seed: int, shape: dict[str, Any]) -> tuple[Network, list[float]]:
    """A network with random weights, and the largest magnitude of what each of its products reads."""
    random = np.random.default_rng(seed)

    def convolution(
        outputs: int, inputs: int, kernel: int, stride: int, pads: tuple[int, int], size: int
    ) -> Convolution:
        weights = random.normal(0, (2 / (inputs * kernel * kernel)) ** 0.5, (outputs, inputs, kernel, kernel))
        weights *= 2.0 ** random.integers(-2, 3, (outputs, 1, 1, 1))
        bias = random.normal(0, 1, outputs)
        return Convolution(weights.astype(np.float32), bias.astype(np.float32), stride, pads, (size, size))

    size = shape["size"]
    stem = convolution(shape["stem"], 3, 3, 2, shape["pads"], size)
    size, narrow, blocks, count = -(-size // 2), 0, [], shape["stem"]
    for wide, kernel, stride, pads, outputs in shape["blocks"]:
        expand = convolution(wide, narrow, 1, 1, (0, 0), size) if blocks else None
        wide = wide or shape["stem"]
        depthwise = convolution(wide, 1, kernel, stride, pads, size)
        size = -(-size // stride)
        residual, narrow = not outputs, outputs or narrow
        project = convolution(narrow, wide, 1, 1, (0, 0), size)
        blocks.append(Block(expand, depthwise, project, residual))
        count += wide
    blocks.append(Block(convolution(shape["last"], narrow, 1, 1, (0, 0), size), None, None, False))
    count += shape["last"]
    mean = np.array([123.675, 116.28, 103.53], np.float32)
    scale = np.array([0.0171, 0.0175, 0.0174], np.float32)
    head = random.normal(0, 0.1, 3 * count).astype(np.float32)
    network = Network(shape["size"], mean, scale, stem, tuple(blocks), 1e-6, head, 0.5, *NONE)
    ranges = []
    for block in network.blocks:
        ranges += [float(random.uniform(2, 9))] if block.expand is not None else []
        ranges += [float(random.uniform(2, 6))] if block.project is not None else []
    return network, ranges


def outputs(network: Network, view: NDArray[np.uint8]) -> tuple[Doubles, Doubles]:
    """What the head reads, [D], and how far fp32 may be from it."""
    x = (view.astype(np.float64) - network.mean) * network.scale
    # The kernel multiplies pixels by weights with the normalisation in them: errors are of the size of those products.
    x, error = x.transpose(2, 0, 1), np.full((3, *view.shape[:2]), 0.0)
    raw = np.maximum(view, network.mean) * network.scale + network.mean * network.scale
    x, error = _convolved(x, error, network.stem, False, raw.transpose(2, 0, 1), 6.0)
    found = [_statistics(x, error, network.epsilon)]
    for block in network.blocks:
        begin = x, error
        if block.expand is not None:
            x, error = _convolved(x, error, block.expand, False, None, 6.0)
        if block.depthwise is not None:
            x, error = _convolved(x, error, block.depthwise, True, None, 6.0)
        found.append(_statistics(x, error, network.epsilon))
        if block.project is not None:
            x, error = _convolved(x, error, block.project, False, None, None)
            if block.residual:
                x = x + begin[0]
                error = error + begin[1] + UNIT * np.abs(x)
    values, bounds = (np.concatenate([part for each in found for part in each[side]]) for side in (0, 1))
    return values, bounds


def _convolved(
    x: Doubles, error: Doubles, each: Convolution, depthwise: bool, size: Doubles | None, cap: float | None
) -> tuple[Doubles, Doubles]:
    """The result and its error: that of the inputs, and (n + 2) roundings of the sum of magnitudes."""
    weights = each.weights.astype(np.float64)
    value = _sums(x, weights, each, depthwise) + each.bias[:, None, None].astype(np.float64)
    magnitude = _sums(np.abs(x) if size is None else size, np.abs(weights), each, depthwise)
    terms = weights[0].size + 2
    magnitude += np.abs(each.bias)[:, None, None]
    error = _sums(error, np.abs(weights), each, depthwise) + 2 * terms * UNIT * magnitude
    return (value if cap is None else np.clip(value, 0, cap)), error


def _sums(x: Doubles, weights: Doubles, each: Convolution, depthwise: bool) -> Doubles:
    kernel, stride, (top, left) = weights.shape[-1], each.stride, each.pads
    height, width = (-(-side // stride) for side in x.shape[1:])
    padded = np.pad(x, [(0, 0), (top, kernel + stride), (left, kernel + stride)])
    found = np.zeros((len(weights), height, width))
    for i in range(kernel):
        for j in range(kernel):
            part = padded[:, i : i + height * stride : stride, j : j + width * stride : stride]
            w = weights[:, :, i, j]
            found += w[:, :, None] * part if depthwise else np.tensordot(w, part, 1)
    return found


def _statistics(x: Doubles, error: Doubles, epsilon: float) -> tuple[tuple[Doubles, ...], tuple[Doubles, ...]]:
    """Mean, deviation and maximum; and bounds, with those of sums in fp32 over a row."""
    mean, variance = x.mean((1, 2)), x.var((1, 2))
    deviation = np.sqrt(variance + epsilon)
    rounding = (x.shape[2] + 8) * UNIT
    of_mean = error.mean((1, 2)) + rounding * (np.abs(mean) + 1e-3)
    of_squares = 2 * (error * (np.abs(x) + error)).mean((1, 2)) + rounding * (x * x).mean((1, 2))
    of_variance = of_squares + 2 * np.abs(mean) * of_mean + of_mean**2
    above, below = (np.sqrt(np.maximum(variance + side * of_variance, 0) + epsilon) for side in (1, -1))
    of_deviation = np.maximum(above - deviation, deviation - below)
    return (mean, deviation, x.max((1, 2))), (of_mean, of_deviation + 1e-6, error.max((1, 2)) + 1e-6)
