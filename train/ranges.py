"""Activation ranges of a member on photographs: what its INT8 network is made from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.engine.openvino_core import library, shared_core
from metaqap_fast.engine.openvino_int8 import conv_inputs


def measure_ranges(path: Path, views: Iterable[NDArray[np.uint8]]) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of every activation that a convolution reads, but the first.

    The first convolution reads the image itself; it is cheap, and rounding it costs most.

    Args:
        path: the member's ONNX file.
        views: photographs [S, S, 3] uint8.
    """
    core, ov = shared_core(), library()
    op = ov.opset13
    model = core.read_model(path)
    tensors = dict(list(conv_inputs(model).items())[1:])
    axes = op.constant(np.arange(4, dtype=np.int64))
    extremes = [reduce(tensor, axes) for tensor in tensors.values() for reduce in (op.reduce_min, op.reduce_max)]
    probe = core.compile_model(
        ov.Model(extremes, model.get_parameters(), "ranges"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    low, high = np.full(len(tensors), np.inf), np.full(len(tensors), -np.inf)
    for view in views:
        values = np.array([float(value) for value in probe({0: view[None]}).values()]).reshape(-1, 2)
        low, high = np.minimum(low, values[:, 0]), np.maximum(high, values[:, 1])
    return {name: (float(a), float(b)) for name, a, b in zip(tensors, low, high, strict=True)}
