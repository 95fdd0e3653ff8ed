"""INT8 for OpenVINO: the network of a member with its convolutions in 8 bits.

Activations are quantised per tensor to the ranges that the bundle holds (measured on training photographs),
weights per output channel to their own largest magnitude. What has no range in the bundle (the first
convolution, pooling, the head) stays in floating point. OpenVINO turns the FakeQuantize operations that are
inserted here into int8 kernels.

Without VNNI those kernels add two neighbouring products of 8-bit numbers in 16 bits, and cut off what does not fit:
activations are 0 to 255 there, so that two weights which add up to more than 128 can exceed 32,767. That moved scores
of nine images by up to .196. So the step of an output's weights is made so large that every such pair fits, which costs
a little resolution: .020 at most, where it is .021 with VNNI (tests/system/test_determinism.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.engine.openvino_core import library

CONVOLUTIONS = ("Convolution", "GroupConvolution")


def conv_inputs(model: Any) -> dict[str, Any]:
    """The activations that convolutions read, by the name of their tensor, in the order of execution."""
    found: dict[str, Any] = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() in CONVOLUTIONS:
            source = node.input_value(0)
            found.setdefault(min(source.get_names()), source)
    return found


def quantize(model: Any, ranges: Mapping[str, tuple[float, float]], narrow: bool = False) -> None:
    """Quantise the convolutions of an `ov.Model` whose input has a range; changes the model.

    Args:
        model: a member's network, convolution weights constant.
        ranges: (low, high) by tensor name. A range that starts at 0 is unsigned, any other symmetric.
        narrow: for a CPU that adds two products in 16 bits.
    """
    op = library().opset13

    for name, source in conv_inputs(model).items():
        if name not in ranges:
            continue
        low, high = _limits(*ranges[name])
        readers = list(source.get_target_inputs())
        bounds = [op.constant(np.full((1, 1, 1, 1), value, np.float32)) for value in (low, high)]
        quantised = op.fake_quantize(source, *bounds, *bounds, 256)
        for reader in readers:
            reader.replace_source_output(quantised.output(0))
            if (node := reader.get_node()).get_type_name() in CONVOLUTIONS:
                _quantize_weights(node, narrow)
    model.validate_nodes_and_infer_types()


def _limits(low: float, high: float) -> tuple[float, float]:
    if low >= 0:
        return 0.0, max(high, 1e-6)
    bound = max(-low, high, 1e-6)
    return -bound, bound * 127 / 128  # 256 levels, zero among them


def _quantize_weights(conv: Any, narrow: bool) -> None:
    op, grouped = library().opset13, conv.get_type_name() == "GroupConvolution"
    weights = constant(conv.input_value(1).get_node())
    # Convolution [O, I, h, w]: a scale for each O; GroupConvolution [G, O, I, h, w]: for each G and O.
    inputs = 2 if grouped else 1
    inner = tuple(range(inputs, weights.ndim))
    bound = np.maximum(np.abs(weights).max(axis=inner, keepdims=True), 1e-8)
    if narrow:  # 127.5 steps and twice half a step of rounding: at most 128 whole ones, and 128 * 255 fits
        bound = np.maximum(bound, _largest_pair(weights, inputs).max(axis=inner, keepdims=True) * (127 / 127.5))
    bounds = [op.constant(-bound), op.constant(bound)]
    conv.input(1).replace_source_output(op.fake_quantize(op.constant(weights), *bounds, *bounds, 255).output(0))


def _largest_pair(weights: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Sums of two weights of neighbouring inputs, of those of one sign, as their magnitude; `axis` halved."""
    odd = weights.shape[axis] % 2
    padded = np.pad(weights, [(0, odd if i == axis else 0) for i in range(weights.ndim)])
    pairs = padded.reshape(*weights.shape[:axis], -1, 2, *weights.shape[axis + 1 :])
    rising, falling = (np.maximum(sign * pairs, 0).sum(axis + 1) for sign in (1, -1))
    return np.asarray(np.maximum(rising, falling))


def constant(node: Any) -> NDArray[np.float32]:
    """Weights of a convolution: a constant, stored in fp16 behind a cast, or reshaped into groups."""
    kind = node.get_type_name()
    if kind == "Constant":
        return np.asarray(node.get_data(), np.float32)
    if kind in ("Convert", "Reshape"):
        return constant(node.input_value(0).get_node()).reshape(list(node.get_output_shape(0)))
    raise ValueError(f"convolution weights made by {kind}")
