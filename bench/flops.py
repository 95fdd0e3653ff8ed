"""Arithmetic of a network: operations and bytes of its convolutions and matrix products, counted from the graph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from metaqap_fast.model.bundle import Bundle

ITEM = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}  # bytes of a number


@dataclass(frozen=True, slots=True)
class Work:
    """For one view: `operations` (a multiplication and an addition are two) and `numbers` read and written.

    Numbers count each layer's input, weights and output once: what must move if no layers are fused.
    """

    operations: float
    numbers: float

    def intensity(self, precision: str) -> float:
        """Operations per byte; 0 for a network without any."""
        return self.operations / (self.numbers * ITEM[precision]) if self.numbers else 0.0


def count(bundle: Bundle) -> Work:
    """Of all members of a bundle together."""
    from metaqap_fast.engine.openvino_engine import merged

    operations = numbers = 0.0
    for node in merged(bundle).get_ordered_ops():
        found = _operations(node)
        if found:
            operations += found
            shapes = [node.get_input_shape(0), node.get_input_shape(1), node.get_output_shape(0)]
            numbers += sum(math.prod(shape) for shape in shapes)
    return Work(operations, numbers)


def _operations(node: Any) -> float:
    kind = node.get_type_name()
    if kind not in ("Convolution", "GroupConvolution", "MatMul"):
        return 0.0
    weights: list[int] = list(node.get_input_shape(1))
    if kind == "Convolution":  # [O, I, h, w]
        inner = math.prod(weights[1:])
    elif kind == "GroupConvolution":  # [G, O/G, I/G, h, w]
        inner = math.prod(weights[2:])
    else:
        inner = weights[-1 if node.get_attributes()["transpose_b"] else -2] if len(weights) > 1 else weights[0]
    return float(2 * math.prod(node.get_output_shape(0)) * inner)
