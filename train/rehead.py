"""Another head for a member that is there: its weights replaced, and shares of hidden units beside its prediction.

The product that gives the prediction stays an operation of its own, so that it is the same to the last bit whatever
stands beside it.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from metaqap_fast.errors import MetaqapError

F64 = NDArray[np.float64]
ALONE, BESIDE = "prediction.alone", "prediction.beside"


def read_head(model: ModelProto) -> tuple[F64, float]:
    """Weights [D] and bias of a member's prediction.

    Raises:
        MetaqapError: the member does not end in a linear head.
    """
    product, added = _head(model)
    return _constant(model, product.input[1]).ravel(), float(_constant(model, added.input[1]).ravel()[0])


def add_units(model: ModelProto, weights: NDArray[np.floating[Any]], bias: F64) -> None:
    """Put U columns beside a member's prediction, [N, 1] -> [N, 1 + U]; changes the model.

    Columns that were added before are replaced.

    Args:
        model: the member.
        weights: [D, U] on the pooled taps that the prediction reads; stored as fp16.
        bias: [U].
    """
    graph = model.graph
    product, _ = _head(model)
    result = graph.output[0]
    kept = [node for node in graph.node if not _beside(node)]
    tensors = [tensor for tensor in graph.initializer if not tensor.name.startswith(BESIDE)]
    for node in kept:
        node.output[:] = [ALONE if name == result.name else name for name in node.output]
    made = [
        helper.make_node("Cast", [f"{BESIDE}.weights.fp16"], [f"{BESIDE}.weights"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", [product.input[0], f"{BESIDE}.weights"], [f"{BESIDE}.product"], f"{BESIDE}.product"),
        helper.make_node("Add", [f"{BESIDE}.product", f"{BESIDE}.bias"], [BESIDE], BESIDE),
        helper.make_node("Concat", [ALONE, BESIDE], [result.name], f"{BESIDE}.concat", axis=1),
    ]
    tensors.append(numpy_helper.from_array(np.asarray(weights, np.float16), f"{BESIDE}.weights.fp16"))
    tensors.append(numpy_helper.from_array(np.asarray(bias, np.float32), f"{BESIDE}.bias"))
    columns = helper.make_tensor_value_info(result.name, TensorProto.FLOAT, ["batch", 1 + len(bias)])
    nodes = [*kept, *made]
    del graph.node[:], graph.initializer[:], graph.output[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
    graph.output.append(columns)
    onnx.checker.check_model(model)


def read_units(model: ModelProto) -> tuple[NDArray[np.float32], F64] | None:
    """Weights [D, U] and bias [U] of the columns that `add_units` has added; None if there are none."""
    if not any(tensor.name.startswith(BESIDE) for tensor in model.graph.initializer):
        return None
    weights = _constant(model, f"{BESIDE}.weights.fp16").astype(np.float32)
    return weights, _constant(model, f"{BESIDE}.bias")


def drop_units(model: ModelProto) -> None:
    """Take those columns away again, [N, 1 + U] -> [N, 1]; changes the model."""
    graph = model.graph
    if read_units(model) is None:
        return
    name = graph.output[0].name
    nodes = [node for node in graph.node if not _beside(node)]
    tensors = [tensor for tensor in graph.initializer if not tensor.name.startswith(BESIDE)]
    for node in nodes:
        node.output[:] = [name if output == ALONE else output for output in node.output]
    del graph.node[:], graph.initializer[:], graph.output[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1]))
    onnx.checker.check_model(model)


def put_head(model: ModelProto, weights: F64, bias: float) -> None:
    """Replace the weights [D] and the bias of a member's prediction; changes the model.

    Raises:
        MetaqapError: as `read_head`.
    """
    product, added = _head(model)
    for name, values in ((product.input[1], weights), (added.input[1], np.array([bias]))):
        tensor = _tensor(model, name)
        shape, kind = list(tensor.dims), numpy_helper.to_array(tensor).dtype
        tensor.CopyFrom(numpy_helper.from_array(values.reshape(shape).astype(kind), name))


def digest_of_body(model: ModelProto) -> str:
    """Of everything but the heads: what two members share whose pooled taps are the same."""
    product, added = _head(model)
    heads = {*product.input[1:], *added.input, *added.output}
    nodes = [node for node in model.graph.node if node not in (product, added) and not _beside(node)]
    tensors = [
        tensor for tensor in model.graph.initializer if tensor.name not in heads and not tensor.name.startswith(BESIDE)
    ]
    parts = [*nodes, *sorted(tensors, key=lambda tensor: tensor.name)]
    return hashlib.sha256(b"".join(part.SerializeToString(deterministic=True) for part in parts)).hexdigest()


def _beside(node: NodeProto) -> bool:
    return any(name.startswith(BESIDE) for name in (*node.input, *node.output))


def _head(model: ModelProto) -> tuple[NodeProto, NodeProto]:
    """The product and the addition that give the prediction."""
    made = {name: node for node in model.graph.node for name in node.output}
    last = made.get(ALONE) or made.get(model.graph.output[0].name)
    product = made.get(last.input[0]) if last is not None and last.op_type == "Add" else None
    if last is None or product is None or product.op_type != "MatMul":
        raise MetaqapError("a member that does not end in a linear head keeps the one that it has")
    return product, last


def _tensor(model: ModelProto, name: str) -> TensorProto:
    found = next((tensor for tensor in model.graph.initializer if tensor.name == name), None)
    if found is None:
        raise MetaqapError(f"the head's {name!r} is no constant of the member")
    return found


def _constant(model: ModelProto, name: str) -> F64:
    values: F64 = numpy_helper.to_array(_tensor(model, name)).astype(np.float64)
    return values
