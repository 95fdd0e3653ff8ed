"""Members' ONNX files as one typed graph for TensorRT and torch: merged, in half precision, or in 8 bits.

TensorRT takes precision from the graph alone: types, casts, and quantise/dequantise pairs. The image and its
normalisation, every pooling over space and the head stay in fp32; the convolutions and what stands between
them are in the lower precision.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.model.bundle import Bundle, Member

OPSET = 22  # the first in which ONNX's own Conv may be bf16
HALF = {
    "fp16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
    "int8": TensorProto.FLOAT16,
    "fp8": TensorProto.FLOAT16,
}
# 8-bit types and their largest value; float8 is E4M3, which TensorRT takes for activations and weights.
EIGHT: dict[str, tuple[np.dtype[Any], float]] = {
    "int8": (np.dtype(np.int8), 127.0),
    "fp8": (np.dtype(ml_dtypes.float8_e4m3fn), 448.0),
}
SMALLEST_SCALE = 2.0**-20  # of 8-bit values; fp16 still tells it from 0
_CONVOLUTIONS = ("Conv", "ConvTranspose")
# Sums over a whole image: too long for half precision, wherever they stand.
_FP32 = (
    "Cast",
    "ReduceMean",
    "ReduceSum",
    "ReduceMax",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Softmax",
    "Gemm",
    "MatMul",
)
# What may follow the last convolution in its precision.
_ACTIVATIONS = ("Relu", "LeakyRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "BatchNormalization")


def merged(bundle: Bundle, precision: str = "fp32", members: Iterable[Member] | None = None) -> ModelProto:
    """One graph: `image` [B, S, S, 3] uint8 -> `predictions` [B, columns] float32, members in the order given.

    Args:
        bundle: the model.
        precision: `fp32`, `bf16`, `fp16`, `int8` or `fp8` (convolutions with a known range in 8 bits, the rest fp16).
        members: those to include; None for all.

    Raises:
        UsageError: int8 or fp8, and a member has no activation ranges.
        MetaqapError: a member that is not one input and one output.
    """
    nodes: list[NodeProto] = []
    tensors: list[TensorProto] = []
    outputs: list[str] = []
    columns = 0
    for index, member in enumerate(bundle.members if members is None else members):
        model = in_precision(load(member.file), precision, member.ranges, f"the model {bundle.name}")
        graph = prefixed(model, f"m{index}/")
        nodes += graph.node
        tensors += graph.initializer
        outputs.append(graph.output[0].name)
        columns += member.columns
    nodes.append(helper.make_node("Concat", outputs, ["predictions"], "predictions", axis=1))
    size = bundle.view_size
    graph = helper.make_graph(
        _shared(nodes),
        bundle.name,
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", size, size, 3])],
        [helper.make_tensor_value_info("predictions", TensorProto.FLOAT, ["batch", columns])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def in_precision(model: ModelProto, precision: str, ranges: Mapping[str, tuple[float, float]], name: str) -> ModelProto:
    """A loaded member in a precision; `name` is for the message."""
    if precision in EIGHT and not ranges:
        raise UsageError(f"{name} has no ranges for {precision}: use --precision fp32, bf16 or fp16")
    if precision in HALF:
        lower(model, HALF[precision])
    if precision in EIGHT:
        quantize(model, ranges, precision)
    return model


def load(path: Path) -> ModelProto:
    """A member as fp32: constants folded into initializers, the operator set brought to OPSET."""
    model = onnx.load(path)
    if len(model.graph.input) != 1 or len(model.graph.output) != 1:
        raise MetaqapError(f"{path}: a member has one input and one output")
    if model.opset_import[0].version < OPSET:
        model = onnx.version_converter.convert_version(model, OPSET)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        value = _folded(node, constants)
        if value is None:
            nodes.append(node)
        else:
            constants[node.output[0]] = numpy_helper.from_array(value, node.output[0])
    used = {name for node in nodes for name in node.input}
    _replace(model, nodes, [tensor for name, tensor in constants.items() if name in used])
    return model


def digest(model: ModelProto) -> str:
    """sha256 of a graph."""
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def lower(model: ModelProto, kind: int) -> None:
    """Put the convolutions of a loaded member, and what stands between them, in `kind`; changes the model."""
    types = _types(model)
    low = _between_convolutions(model)
    made = {output: node.name for node in model.graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    extra: dict[str, TensorProto] = {}
    nodes: list[NodeProto] = []
    casts: set[str] = set()

    def cast(name: str, to: int, suffix: str) -> str:
        if f"{name}{suffix}" not in casts:
            casts.add(f"{name}{suffix}")
            nodes.append(helper.make_node("Cast", [name], [f"{name}{suffix}"], f"{name}{suffix}", to=to))
        return f"{name}{suffix}"

    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if types.get(name) != TensorProto.FLOAT:
                continue
            if node.name in low and name in constants:
                extra[f"{name}.low"] = _converted(constants[name], kind, f"{name}.low")
                node.input[place] = f"{name}.low"
            elif node.name in low and made.get(name) not in low:
                node.input[place] = cast(name, kind, ".low")
            elif node.name not in low and made.get(name) in low:
                node.input[place] = cast(name, TensorProto.FLOAT, ".float")
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    _replace(model, nodes, [t for t in (*constants.values(), *extra.values()) if t.name in used])


def quantize(model: ModelProto, ranges: Mapping[str, tuple[float, float]], precision: str = "int8") -> None:
    """Quantise/dequantise pairs around the convolutions whose input has a range; changes the model.

    Activations per tensor and weights per output channel, both symmetric around 0, which is all that TensorRT
    takes. What has no range (the first convolution, pooling, the head) stays as it is, and so do depthwise
    convolutions in fp8, which TensorRT has none of.
    """
    eight, largest = EIGHT[precision]
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[NodeProto] = []
    extra: dict[str, TensorProto] = {}

    def add(name: str, value: NDArray[Any]) -> str:
        extra[name] = numpy_helper.from_array(value, name)
        return name

    for node in model.graph.node:
        source = node.input[0] if node.input else ""
        base = source.removesuffix(".low")
        whole = precision == "fp8" and any(a.name == "group" and a.i > 1 for a in node.attribute)
        if node.op_type == "Conv" and base in ranges and node.input[1] in constants and not whole:
            weights = numpy_helper.to_array(constants[node.input[1]])
            kind = weights.dtype
            quantised = f"{base}.{precision}"
            if f"{quantised}.scale" not in extra:
                bound = max(-ranges[base][0], ranges[base][1])
                add(f"{quantised}.scale", np.array(max(bound / largest, SMALLEST_SCALE), kind))
                add(f"{quantised}.zero", np.array(0, eight))
                pair = [f"{quantised}.scale", f"{quantised}.zero"]
                nodes.append(helper.make_node("QuantizeLinear", [source, *pair], [quantised], quantised))
                back = f"{base}.dequantised"
                nodes.append(helper.make_node("DequantizeLinear", [quantised, *pair], [back], back))
            node.input[0] = f"{base}.dequantised"
            node.input[1] = _quantised_weights(node.input[1], weights.astype(np.float32), kind, precision, nodes, add)
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    _replace(model, nodes, [t for t in (*constants.values(), *extra.values()) if t.name in used])


def _quantised_weights(
    name: str,
    weights: NDArray[np.float32],
    kind: np.dtype[Any],
    precision: str,
    nodes: list[NodeProto],
    add: Callable[[str, NDArray[Any]], str],
) -> str:
    eight, largest = EIGHT[precision]
    # [O, I, h, w]: a scale for each O
    bound = np.abs(weights).max(axis=tuple(range(1, weights.ndim)))
    scale = np.maximum(bound / largest, SMALLEST_SCALE).astype(kind)
    steps = weights / scale.astype(np.float32).reshape(-1, *[1] * (weights.ndim - 1))
    steps = np.round(steps) if precision == "int8" else steps  # the cast to float8 rounds by itself
    stored = add(f"{name}.{precision}", np.clip(steps, -largest, largest).astype(eight))
    pair = [add(f"{name}.scale", scale), add(f"{name}.zero", np.zeros(len(scale), eight))]
    nodes.append(helper.make_node("DequantizeLinear", [stored, *pair], [f"{name}.dq"], f"{name}.dq", axis=0))
    return f"{name}.dq"


def prefixed(model: ModelProto, prefix: str) -> onnx.GraphProto:
    """The graph with a prefix before every name but the image's, which is called `image`."""
    graph = model.graph
    image = graph.input[0].name

    def rename(name: str) -> str:
        return "image" if name == image else f"{prefix}{name}" if name else ""

    for node in graph.node:
        node.name = f"{prefix}{node.name}"
        node.input[:] = [rename(name) for name in node.input]
        node.output[:] = [rename(name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = rename(tensor.name)
    graph.output[0].name = rename(graph.output[0].name)
    return graph


def _shared(nodes: Iterable[NodeProto]) -> list[NodeProto]:
    """Nodes without those that repeat an earlier one on the same inputs: the image is cast and transposed once."""
    seen: dict[bytes, NodeProto] = {}
    renamed: dict[str, str] = {}
    kept = []
    for node in nodes:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        bare = NodeProto()
        bare.CopyFrom(node)
        bare.ClearField("name")
        del bare.output[:]
        key = bare.SerializeToString(deterministic=True)
        if key in seen:
            renamed.update(zip(node.output, seen[key].output, strict=True))
        else:
            seen[key] = node
            kept.append(node)
    return kept


def _between_convolutions(model: ModelProto) -> set[str]:
    """Names of the nodes to lower: convolutions, what lies on a path between two, and a last activation."""
    nodes = list(model.graph.node)
    readers: dict[str, list[NodeProto]] = {}
    for index, node in enumerate(nodes):
        node.name = node.name or f"{node.op_type}_{index}"
        for name in node.input:
            readers.setdefault(name, []).append(node)
    after: set[str] = set()
    for node in nodes:  # ONNX graphs stand in topological order
        if node.op_type in _CONVOLUTIONS or node.name in after:
            after |= {reader.name for output in node.output for reader in readers.get(output, ())}
    before: set[str] = set()
    for node in reversed(nodes):
        if any(
            reader.op_type in _CONVOLUTIONS or reader.name in before
            for output in node.output
            for reader in readers.get(output, ())
        ):
            before.add(node.name)
    low = {
        node.name
        for node in nodes
        if node.op_type in _CONVOLUTIONS or (node.name in after & before and node.op_type not in _FP32)
    }
    made = {output: node.name for node in nodes for output in node.output}
    for node in nodes:
        if node.op_type in _ACTIVATIONS and made.get(node.input[0]) in low:
            low.add(node.name)
    return low


def _types(model: ModelProto) -> dict[str, int]:
    """Element types by tensor name."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _folded(node: NodeProto, constants: Mapping[str, TensorProto]) -> NDArray[np.generic] | None:
    """The value of a constant node or of a cast of stored weights."""
    if node.op_type == "Constant":
        return np.asarray(numpy_helper.to_array(node.attribute[0].t))
    if node.op_type == "Cast" and node.input[0] in constants:
        kind = helper.tensor_dtype_to_np_dtype(node.attribute[0].i)
        return np.asarray(numpy_helper.to_array(constants[node.input[0]])).astype(kind)
    return None


def _converted(tensor: TensorProto, kind: int, name: str) -> TensorProto:
    values = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(kind))
    return numpy_helper.from_array(values, name)


def _replace(model: ModelProto, nodes: list[NodeProto], tensors: list[TensorProto]) -> None:
    nodes, tensors = list(nodes), list(tensors)
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(tensors)
