"""A miniature bundle whose scores can be computed by hand."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

VIEW = 64


def tiny_member(scale: float, statistic: str) -> onnx.ModelProto:
    """[N, VIEW, VIEW, 3] uint8 -> [N, 1]: scale times the mean or the maximum of all pixels, over 255."""
    op = {"mean": "ReduceMean", "max": "ReduceMax"}[statistic]
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node(op, ["x"], ["m"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["m", "scale"], ["s"]),
        helper.make_node("Reshape", ["s", "shape"], ["prediction"]),
    ]
    constants = [
        helper.make_tensor("scale", TensorProto.FLOAT, [], [scale / 255]),
        helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 1]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", VIEW, VIEW, 3])
    out = helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["batch", 1])
    graph = helper.make_graph(nodes, "tiny", [image], [out], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_bundle(folder: Path, **changes: Any) -> Path:
    """A bundle of two tiny members: 0.5 * mean + 0.25 * (0.8 * max) + 0.1."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, scale, statistic in (("mean", 1.0, "mean"), ("max", 0.8, "max")):
        path = folder / f"{name}.onnx"
        onnx.save(tiny_member(scale, statistic), path)
        files[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    document = {
        "format": "metaqap-bundle",
        "format_version": 1,
        "name": "tiny",
        "view_size": VIEW,
        "members": [{"name": "mean", "file": "mean.onnx"}, {"name": "max", "file": "max.onnx"}],
        "meta_learner": {"weights": [0.5, 0.25], "intercept": 0.1, "variance_floor": 0.01, "variance_slope": 2.0},
        "files": files,
    }
    (folder / "bundle.json").write_text(json.dumps({**document, **changes}))
    return folder
