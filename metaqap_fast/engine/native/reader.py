"""A member's graph as the row of blocks that the compiled kernel (kernels/cpu/mobilenet.c) runs.

What the kernel takes: [1, S, S, 3] uint8, normalised; a 3x3 stem with stride 2; MobileNet blocks (expand 1x1, depthwise
3x3 or 5x5, project 1x1, the first without expansion); a last 1x1 expansion; ReLU6 everywhere but after a projection; a
linear head on mean, standard deviation and maximum of the stem, every depthwise convolution and the last expansion.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.engine.openvino_int8 import constant
from metaqap_fast.engine.protocol import Unsuited as Unsuited

Floats = NDArray[np.float32]
_N = TypeVar("_N")


@dataclass(frozen=True, slots=True)
class Convolution:
    """`weights` [O, I, h, w] (depthwise: [C, 1, h, w]), `bias` [O]; `pads` (top, left); `size` of the input (H, W)."""

    weights: Floats
    bias: Floats
    stride: int
    pads: tuple[int, int]
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Block:
    """`expand` is None in the first block; `depthwise` and `project` are None in the last."""

    expand: Convolution | None
    depthwise: Convolution | None
    project: Convolution | None
    residual: bool


@dataclass(frozen=True, slots=True)
class Network:
    """A member: (pixel - mean) * scale [3], `stem`, `blocks`, `epsilon` under the deviations' root, and the head.

    The head's `weights` [D] stand in the order of the taps: mean, deviation, maximum of each. `units` [D, U] and
    `units_bias` [U] are of the columns beside the prediction.
    """

    size: int
    mean: Floats
    scale: Floats
    stem: Convolution
    blocks: tuple[Block, ...]
    epsilon: float
    weights: Floats
    bias: float
    units: Floats
    units_bias: Floats


def read(model: Any) -> Network:
    """The network of an `ov.Model` whose input is [1, S, S, 3].

    Raises:
        Unsuited: it is not of this type; every operation is looked at.
    """
    if len(model.inputs) != 1 or [len(output.shape) for output in model.outputs] != [2]:
        raise Unsuited("more than one input, or more than one prediction")
    size = int(model.inputs[0].shape[1])
    value = _only(model.inputs[0], "Convert")
    value = _only(value, "Transpose", [0, 3, 1, 2])
    value, mean = _with_constant(value, "Subtract")
    value, scale = _with_constant(value, "Multiply")
    if mean.size != 3 or scale.size != 3:
        raise Unsuited("a normalisation that is not by colour channel")
    taps = []
    stem, value = _convolution(value, "Convolution", clipped=True)
    taps.append(value)
    blocks: list[Block] = []
    while True:
        begin, expand = value, None
        if blocks:
            expand, value = _convolution(value, "Convolution", clipped=True)
            if not _consumers(value, "GroupConvolution"):
                blocks.append(Block(expand, None, None, False))
                taps.append(value)
                break
        depthwise, value = _convolution(value, "GroupConvolution", clipped=True)
        taps.append(value)
        project, value = _convolution(value, "Convolution", clipped=False)
        added = _residual(value, begin)
        blocks.append(Block(expand, depthwise, project, added is not None))
        value = value if added is None else added
    network = Network(size, mean.ravel(), scale.ravel(), stem, tuple(blocks), *_head(model, taps))
    _check(network)
    return network


def _check(network: Network) -> None:
    stem, wide = network.stem, len(network.stem.bias)
    if stem.weights.shape != (wide, 3, 3, 3) or stem.stride != 2 or max(stem.pads) > 1:
        raise Unsuited("a stem that is not 3x3 with stride 2")
    for block in network.blocks:
        for each in (block.expand, block.project):
            if each is not None and (each.weights.shape[2:] != (1, 1) or each.stride != 1 or any(each.pads)):
                raise Unsuited("an expansion or projection that is not 1x1")
        if (each := block.depthwise) is not None and (
            each.weights.shape[1:] not in ((1, 3, 3), (1, 5, 5)) or each.stride not in (1, 2)
        ):
            raise Unsuited("a depthwise convolution that is neither 3x3 nor 5x5 with stride 1 or 2")


def _consumers(value: Any, kind: str) -> list[Any]:
    return [each for each in value.get_target_inputs() if each.get_node().get_type_name() == kind]


def _one(found: list[_N], what: str) -> _N:
    if len(found) != 1:
        raise Unsuited(f"expected one {what}, found {len(found)}")
    return found[0]


def _only(value: Any, kind: str, argument: list[int] | None = None) -> Any:
    node = _one(_consumers(value, kind), kind).get_node()
    if argument is not None and constant(node.input_value(1).get_node()).ravel().tolist() != argument:
        raise Unsuited(f"another {kind} than {argument}")
    return node.output(0)


def _with_constant(value: Any, kind: str) -> tuple[Any, Floats]:
    """The result of an operation with a constant on either side (on the right, where the side matters)."""
    entry = _one(_consumers(value, kind), kind)
    if kind == "Subtract" and entry.get_index() != 0:
        raise Unsuited("a constant minus a value, not a value minus a constant")
    return entry.get_node().output(0), _constant(entry.get_node().input_value(1 - entry.get_index()))


def _constant(value: Any) -> Floats:
    try:
        return constant(value.get_node())
    except ValueError as error:
        raise Unsuited(str(error)) from None


def _convolution(value: Any, kind: str, clipped: bool) -> tuple[Convolution, Any]:
    """The convolution that reads a value, and its result: with bias, and through ReLU6 if `clipped`."""
    node = _one(_consumers(value, kind), kind).get_node()
    weights, options = _constant(node.input_value(1)), node.get_attributes()
    if kind == "GroupConvolution":
        if weights.shape[1:3] != (1, 1):
            raise Unsuited("a convolution in groups that is not depthwise")
        weights = weights[:, 0]
    if options["auto_pad"] != "explicit" or {*options["dilations"]} != {1} or len({*options["strides"]}) != 1:
        raise Unsuited("dilated convolutions, or strides or paddings of another kind")
    height, width = (int(n) for n in node.get_input_shape(0)[2:])
    stride, pads = int(options["strides"][0]), tuple(int(n) for n in options["pads_begin"])
    if tuple(node.get_output_shape(0)[2:]) != (-(-height // stride), -(-width // stride)):
        raise Unsuited("a padding that is not 'same'")
    out, bias = _with_constant(node.output(0), "Add")
    if bias.size != weights.shape[0]:
        raise Unsuited("a bias without a value for each channel")
    if clipped:
        out, low = _with_constant(out, "Maximum")
        out, high = _with_constant(out, "Minimum")
        if (low.ravel().tolist(), high.ravel().tolist()) != ([0.0], [6.0]):
            raise Unsuited("an activation other than ReLU6")
    return Convolution(weights, bias.ravel(), stride, (pads[0], pads[1]), (height, width)), out


def _residual(value: Any, begin: Any) -> Any | None:
    """The sum of a value and the block's input, if it is what comes next."""
    for entry in _consumers(value, "Add"):
        if entry.get_node().input_value(1 - entry.get_index()) == begin:
            return entry.get_node().output(0)
    return None


def _head(model: Any, taps: list[Any]) -> tuple[float, Floats, float, Floats, Floats]:
    """Epsilon; weights and bias of the prediction, and of what is concatenated to it, if they read what the kernel
    computes."""
    sources = list(_flat(model.get_results()[0].input_value(0)))
    heads = [_linear(source) for source in sources]
    features = list(_flat(heads[0][0]))
    if any(head[0] != heads[0][0] for head in heads):
        raise Unsuited("outputs that do not read the pooled values of the prediction")
    if len(features) != 3 * len(taps):
        raise Unsuited(f"a head on {len(features)} pooled values of {len(taps)} activations")
    epsilons = set()
    for tap, (mean, deviation, maximum) in zip(taps, zip(*[iter(features)] * 3, strict=True), strict=True):
        _pooled(mean, "ReduceMean", tap)
        _pooled(maximum, "ReduceMax", tap)
        epsilons.add(_deviation(deviation, tap))
    epsilon = _one(sorted(epsilons), "epsilon")
    (_, weights, bias), *units = heads
    if weights.shape[1] != 1:
        raise Unsuited("a head of more than one prediction")
    none = np.zeros((len(weights), 0), np.float32)
    return (
        epsilon,
        weights[:, 0],
        float(bias[0]),
        np.concatenate([none, *(head[1] for head in units)], 1),
        np.concatenate([none[0], *(head[2] for head in units)]),
    )


def _linear(value: Any) -> tuple[Any, Floats, Floats]:
    """What `value` is a matrix product of, with a bias added: input, weights [D, K], bias [K]."""
    node = value.get_node()
    if node.get_type_name() != "Add":
        raise Unsuited("a head without a bias")
    product = _one([v.get_node() for v in node.input_values() if v.get_node().get_type_name() == "MatMul"], "MatMul")
    bias = _one([v for v in node.input_values() if v.get_node() != product], "constant")
    weights = _constant(product.input_value(1))
    return product.input_value(0), weights, np.broadcast_to(_constant(bias).ravel(), weights.shape[1:]).copy()


def _flat(value: Any) -> Iterator[Any]:
    node = value.get_node()
    if node.get_type_name() == "Concat":
        for each in node.input_values():
            yield from _flat(each)
    else:
        yield value


def _pooled(value: Any, kind: str, source: Any) -> None:
    node = value.get_node()
    if node.get_type_name() != kind or node.input_value(0) != source:
        raise Unsuited(f"a head on something other than the {kind} of an activation")
    if sorted(_constant(node.input_value(1)).ravel().tolist()) != [2, 3]:
        raise Unsuited("a pooling that is not over space")


def _deviation(value: Any, source: Any) -> float:
    """Epsilon of sqrt(mean((x - mean(x))^2) + epsilon)."""
    node = value.get_node()
    if node.get_type_name() != "Sqrt":
        raise Unsuited("a head on something other than a standard deviation")
    node = node.input_value(0).get_node()
    sides = [node.input_value(i) for i in range(node.get_input_size())]
    if node.get_type_name() != "Add" or len(sides) != 2:
        raise Unsuited("a deviation without epsilon")
    constants = [side for side in sides if side.get_node().get_type_name() in ("Constant", "Convert")]
    epsilon = _one(constants, "epsilon")
    variance = _one([side for side in sides if side not in constants], "variance")
    square = variance.get_node().input_value(0)
    _pooled(variance, "ReduceMean", square)
    node = square.get_node()
    if node.get_type_name() != "Multiply" or node.input_value(0) != node.input_value(1):
        raise Unsuited("a variance that is not a mean square")
    node = node.input_value(0).get_node()
    if node.get_type_name() != "Subtract" or node.input_value(0) != source:
        raise Unsuited("a variance of something else")
    mean = node.input_value(1)
    while mean.get_node().get_type_name() in ("Unsqueeze", "Reshape"):
        mean = mean.get_node().input_value(0)
    _pooled(mean, "ReduceMean", source)
    return float(_one(_constant(epsilon).ravel().tolist(), "epsilon"))
