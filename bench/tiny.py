"""A bundle that costs next to nothing, so that everything around the networks is what is timed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

SIZE = 64


def write_tiny(folder: Path) -> Path:
    """One member, the mean of the first pixels: [N, 64, 64, 3] uint8 -> [N, 1].

    Raises:
        ModuleNotFoundError: onnx is missing.
    """
    import onnx
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["m", "scale"], ["s"]),
        helper.make_node("Reshape", ["s", "shape"], ["prediction"]),
    ]
    constants = [
        helper.make_tensor("scale", TensorProto.FLOAT, [], [1 / 255]),
        helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 1]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", SIZE, SIZE, 3])
    out = helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["batch", 1])
    graph = helper.make_graph(nodes, "tiny", [image], [out], constants)
    folder.mkdir()
    path = folder / "mean.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    document = {
        "format": "metaqap-bundle",
        "format_version": 1,
        "name": "tiny",
        "view_size": SIZE,
        "members": [{"name": "mean", "file": path.name}],
        "meta_learner": {"weights": [1.0], "intercept": 0.0, "variance_floor": 0.01, "variance_slope": 0.0},
        "files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest()},
    }
    (folder / "bundle.json").write_text(json.dumps(document))
    return folder
