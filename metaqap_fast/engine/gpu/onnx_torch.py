"""A member's ONNX graph as a torch module, node by node.

Only the operators of convolutional networks; the graph is unrolled into `torch.fx`, so that torch.compile sees
plain torch calls. Types are the graph's: what it casts is cast, in whatever precision it was lowered to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, fx, nn

from metaqap_fast.errors import MetaqapError

_DTYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT8: torch.int8,
    TensorProto.FLOAT8E4M3FN: torch.float8_e4m3fn,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
}


def module(model: ModelProto) -> fx.GraphModule:
    """A loaded graph as a module: [B, S, S, 3] uint8 -> [B, M] float32; convolution weights in channels_last.

    Raises:
        MetaqapError: an operator, or a use of one, that is not among those of convolutional networks.
    """
    root = nn.Module()
    graph = fx.Graph()
    values: dict[str, Any] = {"": None}
    static: dict[str, Any] = {}  # small integer constants and single numbers: axes, shapes, paddings, limits
    readers = Counter(name for node in model.graph.node for name in node.input)
    readers.update(output.name for output in model.graph.output)
    kernels = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    for index, tensor in enumerate(model.graph.initializer):
        array = _tensor(tensor)
        if array.dtype == torch.int64 or array.ndim == 0:
            static[tensor.name] = array.tolist()
        if tensor.name in kernels and array.ndim == 4:
            array = array.contiguous(memory_format=torch.channels_last)
        root.register_buffer(f"c{index}", array)
        values[tensor.name] = graph.get_attr(f"c{index}")
    values[model.graph.input[0].name] = graph.placeholder("image")
    for node in model.graph.node:
        call = _OPERATORS.get(node.op_type)
        if call is None:
            raise MetaqapError(f"the torch engine has no operator {node.op_type} ({node.name}): use another engine")
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        inputs = [values[name] for name in node.input]
        constants = [static.get(name) for name in node.input]
        try:
            function, arguments, options = call(node, inputs, constants, attributes)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise MetaqapError(f"the torch engine cannot run {node.op_type} ({node.name}): {error}") from None
        result = graph.call_function(function, tuple(arguments), options)
        if len(node.output) == 1:
            values[node.output[0]] = result
            result.meta["readers"] = readers[node.output[0]]
        else:
            import operator

            for place, name in enumerate(node.output):
                values[name] = graph.call_function(operator.getitem, (result, place))
    graph.output(values[model.graph.output[0].name])
    graph.eliminate_dead_code()
    built = fx.GraphModule(root, graph)
    built.delete_all_unused_submodules()
    return built.eval()


def _tensor(proto: TensorProto) -> Tensor:
    values = np.array(numpy_helper.to_array(proto))
    if proto.data_type == TensorProto.BFLOAT16:  # numpy has it from ml_dtypes, which torch does not know
        return torch.from_numpy(values.astype(np.float32)).to(torch.bfloat16)
    if proto.data_type == TensorProto.FLOAT8E4M3FN:
        return torch.from_numpy(values.view(np.uint8)).view(torch.float8_e4m3fn)
    return torch.from_numpy(values)


# --- operators: (node, inputs, integer constants, attributes) -> function, arguments, options -------------------

Call = tuple[Callable[..., Any], Sequence[Any], dict[str, Any]]
Operator = Callable[[NodeProto, list[Any], list[Any], dict[str, Any]], Call]


def conv(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, pads: Any, dilation: Any, groups: int) -> Tensor:
    """A convolution with padding (top, left, bottom, right), which may differ between sides.

    In half precision a CPU computes as a GPU's matrix units do: products summed in fp32, the result rounded.
    """
    if x.device.type == "cpu" and x.dtype in (torch.float16, torch.bfloat16):
        wide = conv(x.float(), weight.float(), None if bias is None else bias.float(), stride, pads, dilation, groups)
        return wide.to(x.dtype)
    top, left, bottom, right = pads
    if (top, left) == (bottom, right):
        return F.conv2d(x, weight, bias, stride, (top, left), dilation, groups)
    return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, stride, 0, dilation, groups)


def max_pool(x: Tensor, kernel: Any, stride: Any, pads: Any, ceil: bool) -> Tensor:
    """A maximum over windows; padding never wins."""
    top, left, bottom, right = pads
    if (top, left) == (bottom, right) and 2 * top <= kernel[0] and 2 * left <= kernel[1]:
        return F.max_pool2d(x, kernel, stride, (top, left), ceil_mode=ceil)
    padded = F.pad(x, (left, right, top, bottom), value=torch.finfo(x.dtype).min)
    return F.max_pool2d(padded, kernel, stride, 0, ceil_mode=ceil)


def average_pool(x: Tensor, kernel: Any, stride: Any, pads: Any, ceil: bool, count_pad: bool) -> Tensor:
    """A mean over windows."""
    top, left, bottom, right = pads
    if (top, left) != (bottom, right):
        if not count_pad:
            raise NotImplementedError("uneven padding that does not count")
        x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
    return F.avg_pool2d(x, kernel, stride, (top, left), ceil_mode=ceil, count_include_pad=count_pad)


def clip(x: Tensor, low: Tensor | float | None, high: Tensor | float | None, in_place: bool) -> Tensor:
    """Limits may be absent. `in_place`: nothing else reads `x`."""
    if low is None and high is None:
        return x
    return (torch.clamp_ if in_place else torch.clamp)(x, low, high)  # type: ignore[arg-type]


def reshape(x: Tensor, shape: list[int]) -> Tensor:
    """ONNX's reshape: 0 keeps a size."""
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape)])


def quantize(x: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    """To 8 bits, of the type of `zero`; round half to even, saturating."""
    steps = x.float() / scale.float()
    if zero is not None and zero.dtype == torch.float8_e4m3fn:
        return torch.clamp(steps, -448, 448).to(torch.float8_e4m3fn)
    return torch.clamp(torch.round(steps), -128, 127).to(torch.int8)


def dequantize(x: Tensor, scale: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    """From 8 bits, in the precision of the scale: a number, or one for each index of `axis`."""
    if scale.ndim == 1:
        scale = scale.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    return (x.float() * scale.float()).to(scale.dtype)


def flatten(x: Tensor, axis: int) -> Tensor:
    """Two dimensions: those before `axis` and those from it on."""
    return x.flatten(axis) if axis == 1 else x.flatten(0, axis - 1).flatten(1)


def hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    """A line between 0 and 1."""
    return torch.clamp(x * alpha + beta, 0, 1)


def gemm(a: Tensor, b: Tensor, c: Tensor | None, alpha: float, beta: float, trans_a: bool, trans_b: bool) -> Tensor:
    """alpha a b + beta c."""
    product = alpha * ((a.T if trans_a else a) @ (b.T if trans_b else b))
    return product if c is None else product + beta * c


def extremum(x: Tensor, axes: list[int] | None, keep: bool) -> Tensor:
    """The maximum over axes, or over all."""
    return torch.amax(x, axes if axes is not None else list(range(x.ndim)), keep)


def mean(x: Tensor, axes: list[int] | None, keep: bool) -> Tensor:
    """The mean over axes, or over all."""
    return torch.mean(x, axes if axes is not None else list(range(x.ndim)), keep)


def total(x: Tensor, axes: list[int] | None, keep: bool) -> Tensor:
    """The sum over axes, or over all."""
    return torch.sum(x, axes if axes is not None else list(range(x.ndim)), keep)


def unsqueeze(x: Tensor, axes: list[int]) -> Tensor:
    """New dimensions of size 1."""
    for axis in sorted(axes):
        x = x.unsqueeze(axis)
    return x


def pad(x: Tensor, amounts: list[int], value: Tensor | None) -> Tensor:
    """Constant padding; amounts are all befores, then all afters."""
    half = len(amounts) // 2
    pairs = [n for i in reversed(range(half)) for n in (amounts[i], amounts[half + i])]
    return F.pad(x, pairs, value=0.0 if value is None else float(value))


def _plain(function: Callable[..., Any]) -> Operator:
    return lambda node, inputs, constants, attributes: (function, inputs, {})


def _reduce(function: Callable[..., Any]) -> Operator:
    def call(node: NodeProto, inputs: list[Any], constants: list[Any], attributes: dict[str, Any]) -> Call:
        axes = attributes.get("axes", constants[1] if len(constants) > 1 else None)
        return function, [inputs[0], axes, bool(attributes.get("keepdims", 1))], {}

    return call


def _window(node: NodeProto, attributes: dict[str, Any]) -> list[Any]:
    """Kernel, stride and padding of a pooling."""
    if attributes.get("auto_pad", b"NOTSET") != b"NOTSET" or set(attributes.get("dilations", [1])) != {1}:
        raise ValueError("automatic padding and dilation are not supported")
    kernel = attributes["kernel_shape"]
    return [kernel, attributes.get("strides", [1, 1]), tuple(attributes.get("pads", (0, 0, 0, 0)))]


def _conv(node: NodeProto, inputs: list[Any], constants: list[Any], attributes: dict[str, Any]) -> Call:
    if attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise ValueError("automatic padding is not supported")
    bias = inputs[2] if len(inputs) > 2 else None
    place = [attributes.get("strides", [1, 1]), tuple(attributes.get("pads", (0, 0, 0, 0)))]
    return conv, [*inputs[:2], bias, *place, attributes.get("dilations", [1, 1]), attributes.get("group", 1)], {}


def _batch_norm(node: NodeProto, inputs: list[Any], constants: list[Any], attributes: dict[str, Any]) -> Call:
    x, scale, bias, average, variance = inputs
    return F.batch_norm, [x, average, variance, scale, bias, False, 0.0, attributes.get("epsilon", 1e-5)], {}


def _limits(inputs: list[Any], constants: list[Any]) -> list[Any]:
    """As numbers where they are constant: limits that are tensors are broadcast, and slow."""
    pairs = [*zip(inputs, constants, strict=True), (None, None), (None, None)][1:3]
    return [value if number is None else number for value, number in pairs]


def _alone(x: Any) -> bool:
    """Whether a convolution made it that nothing else reads: as networks are written, with ReLU6(inplace=True)."""
    return isinstance(x, fx.Node) and x.target is conv and x.meta["readers"] == 1


def _axes(inputs: list[Any], constants: list[Any], attributes: dict[str, Any]) -> Any:
    return attributes["axes"] if "axes" in attributes else constants[1]


_OPERATORS: dict[str, Operator] = {
    "Add": _plain(torch.add),
    "Sub": _plain(torch.sub),
    "Mul": _plain(torch.mul),
    "Div": _plain(torch.div),
    "Pow": _plain(torch.pow),
    "Sqrt": _plain(torch.sqrt),
    "Exp": _plain(torch.exp),
    "Erf": _plain(torch.erf),
    "Relu": _plain(torch.relu),
    "Sigmoid": _plain(torch.sigmoid),
    "HardSwish": _plain(F.hardswish),
    "MatMul": _plain(torch.matmul),
    "Identity": _plain(torch.Tensor.contiguous),
    "Clip": lambda n, x, c, a: (clip, [x[0], *_limits(x, c), _alone(x[0])], {}),
    "HardSigmoid": lambda n, x, c, a: (hard_sigmoid, [x[0], a.get("alpha", 0.2), a.get("beta", 0.5)], {}),
    "LeakyRelu": lambda n, x, c, a: (F.leaky_relu, [x[0], a.get("alpha", 0.01)], {}),
    "Softmax": lambda n, x, c, a: (torch.softmax, [x[0], a.get("axis", -1)], {}),
    "Cast": lambda n, x, c, a: (torch.Tensor.to, [x[0], _DTYPES[a["to"]]], {}),
    "Transpose": lambda n, x, c, a: (torch.permute, [x[0], a["perm"]], {}),
    "Concat": lambda n, x, c, a: (torch.cat, [x, a["axis"]], {}),
    "Conv": _conv,
    "BatchNormalization": _batch_norm,
    "MaxPool": lambda n, x, c, a: (max_pool, [x[0], *_window(n, a), bool(a.get("ceil_mode", 0))], {}),
    "AveragePool": lambda n, x, c, a: (
        average_pool,
        [x[0], *_window(n, a), bool(a.get("ceil_mode", 0)), bool(a.get("count_include_pad", 0))],
        {},
    ),
    "GlobalAveragePool": lambda n, x, c, a: (mean, [x[0], [2, 3], True], {}),
    "GlobalMaxPool": lambda n, x, c, a: (extremum, [x[0], [2, 3], True], {}),
    "ReduceMean": _reduce(mean),
    "ReduceMax": _reduce(extremum),
    "ReduceSum": _reduce(total),
    "Unsqueeze": lambda n, x, c, a: (unsqueeze, [x[0], list(_axes(x, c, a))], {}),
    "Squeeze": lambda n, x, c, a: (torch.squeeze, [x[0], tuple(_axes(x, c, a))], {}),
    "Reshape": lambda n, x, c, a: (reshape, [x[0], list(c[1])], {}),
    "Flatten": lambda n, x, c, a: (flatten, [x[0], a.get("axis", 1)], {}),
    "Pad": lambda n, x, c, a: (pad, [x[0], list(c[1]), x[2] if len(x) > 2 else None], {}),
    "Gemm": lambda n, x, c, a: (
        gemm,
        [*x[:2], x[2] if len(x) > 2 else None, a.get("alpha", 1.0), a.get("beta", 1.0), a.get("transA", 0) == 1,
         a.get("transB", 0) == 1],
        {},
    ),
    "QuantizeLinear": lambda n, x, c, a: (quantize, [*x, *[None] * (3 - len(x))], {}),
    "DequantizeLinear": lambda n, x, c, a: (dequantize, [*x, *[None] * (3 - len(x)), a.get("axis", 1)], {}),
}  # fmt: skip
