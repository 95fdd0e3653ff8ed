"""How far a precision moves the scores: a network against OpenVINO in fp32, on photographs or generated views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.errors import MetaqapError
from metaqap_fast.model.bundle import Bundle
from metaqap_fast.model.meta import combine

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
# Largest difference of a score from fp32's, on photographs: asserted in tests, and what a user may count on.
TOLERANCE = {"fp32": 0.0005, "fp16": 0.002, "bf16": 0.02, "int8": 0.06, "fp8": 0.15}


def deviation(bundle: Bundle, predict: Predict, views: NDArray[np.uint8], images: str, how: str) -> dict[str, Any]:
    """What an engine's metadata says of its precision.

    Args:
        bundle: the model.
        predict: [N, S, S, 3] uint8 -> the engine's columns [N, columns], in the precision in question.
        views: [N, S, S, 3] uint8.
        images: what the views are of, in words.
        how: what `predict` is, in words.

    Returns:
        Largest and mean absolute difference of the scores, and the largest of any member, on the MOS scale.
    """
    wanted, found = (bundle.readout(columns)[0] for columns in (reference(bundle, views), predict(views)))
    scores = [combine(each, bundle.meta)[0] for each in (wanted, found)]
    if not np.isfinite(found).all():
        raise MetaqapError(f"{bundle.name}: {how} gives predictions that are not numbers: use another precision")
    difference = np.abs(scores[1] - scores[0])
    return {
        "images": images,
        "count": len(views),
        "measured_with": how,
        "against": "openvino, fp32",
        "score_max": float(difference.max()),
        "score_mean": float(difference.mean()),
        "member_max": float(np.abs(found - wanted).max()),
    }


def reference(bundle: Bundle, views: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The columns [N, columns] of OpenVINO in fp32."""
    from metaqap_fast.engine.openvino_engine import OpenVINOEngine

    engine = OpenVINOEngine(bundle, "fp32")
    try:
        return np.concatenate([rows for _, rows in engine.predict((i, view[None]) for i, view in enumerate(views))])
    finally:
        engine.close()


def graph_predict(bundle: Bundle, precision: str) -> Predict:
    """The graph that TensorRT is given, run by torch on the CPU: types, casts and 8-bit steps as they stand in it."""
    import torch

    from metaqap_fast.engine.gpu import lowering as graph
    from metaqap_fast.engine.gpu.onnx_torch import module

    network = module(graph.merged(bundle, precision))

    def predict(views: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.concatenate([network(torch.from_numpy(view[None])).numpy() for view in views])

    return predict
