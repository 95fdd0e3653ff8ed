"""A graph of the shipped model that was altered somewhere is read as it is now, or refused; never misread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from metaqap_fast.engine.native.reader import Unsuited, read
from metaqap_fast.engine.openvino_core import library
from metaqap_fast.model import bundle as bundles
from native_reference import graph, head

op = library().opset13


def model() -> Any:
    return graph(bundles.load().members[0].file)


def nodes(model: Any, kind: str) -> list[Any]:
    return [node for node in model.get_ordered_ops() if node.get_type_name() == kind]


def number(value: float) -> Any:
    return op.constant(np.float32(value)).output(0)


def put(node: Any, place: int, value: Any) -> None:
    node.input(place).replace_source_output(value)


def after(output: Any, make: Callable[[Any], Any]) -> None:
    """Let everything that reads an output read what is made of it instead."""
    readers = list(output.get_target_inputs())
    made = make(output).output(0)
    for reader in readers:
        reader.replace_source_output(made)


def constant_side(node: Any) -> int:
    """Where an operation of two has a constant."""
    (place,) = [i for i in (0, 1) if node.input_value(i).get_node().get_type_name() in ("Constant", "Convert")]
    return place


def operand(node: Any) -> Any:
    return node.input_value(1 - constant_side(node))


def set_number(node: Any, value: float) -> None:
    put(node, constant_side(node), number(value))


def exchange(one: Any, other: Any) -> None:
    """Of two inputs, what they read."""
    values = one.get_source_output(), other.get_source_output()
    one.replace_source_output(values[1])
    other.replace_source_output(values[0])


def again(node: Any, make: Callable[..., Any] = op.convolution, **changes: Any) -> None:
    """A convolution made anew with other attributes."""
    options = node.get_attributes()
    names = ("strides", "pads_begin", "pads_end", "dilations", "auto_pad")
    attributes = {name: options[name] for name in names} | changes
    node.output(0).replace(make(node.input_value(0), node.input_value(1), **attributes).output(0))


def read_by_head(model: Any) -> list[tuple[Any, Any, Any]]:
    """The inputs that read each tap's mean, deviation and maximum."""

    def leaves(entry: Any) -> list[Any]:
        node = entry.get_source_output().get_node()
        if node.get_type_name() != "Concat":
            return [entry]
        return [leaf for each in node.inputs() for leaf in leaves(each)]

    return list(zip(*[iter(leaves(head(model).input(0)))] * 3, strict=True))


def test_a_padding_is_read_as_it_is() -> None:
    altered = model()
    again(nodes(altered, "GroupConvolution")[4], op.group_convolution, pads_begin=[0, 2], pads_end=[2, 0])
    pads = [block.depthwise.pads for block in read(altered).blocks if block.depthwise]
    assert pads[4] == (0, 2) and {*pads[:4], *pads[5:]} == {(1, 1)}


def epsilon_of_one_tap(model: Any) -> None:
    set_number(nodes(model, "Sqrt")[3].input_value(0).get_node(), 1e-3)


def epsilon_of_one_channel(model: Any) -> None:
    for node in nodes(model, "Sqrt"):
        add = node.input_value(0).get_node()
        values = np.full(add.output(0).shape, 1e-6, np.float32)
        values[..., -1] = 1
        put(add, constant_side(add), op.constant(values).output(0))


def two_taps_exchanged(model: Any) -> None:
    for one, other in zip(*read_by_head(model)[3:5], strict=True):
        exchange(one, other)


def two_statistics_exchanged(model: Any) -> None:
    mean, _, maximum = read_by_head(model)[5]
    exchange(mean, maximum)


def a_tap_twice(model: Any) -> None:
    for one, other in zip(*read_by_head(model)[5:7], strict=True):  # of the same width
        other.replace_source_output(one.get_source_output())


def a_tap_less(model: Any) -> None:
    values = [entry.get_source_output() for tap in read_by_head(model)[:-2] for entry in tap]
    values += [entry.get_source_output() for entry in read_by_head(model)[-1]]
    pooled = op.concat(values, 1)
    for product in [place.get_node() for place in head(model).input_value(0).get_target_inputs()]:  # and of the units
        weights = op.constant(
            np.ones((pooled.output(0).shape[1], product.output(0).partial_shape[1].get_length()), "f4")
        )
        product.output(0).replace(op.matmul(pooled, weights, False, False).output(0))


def two_predictions(model: Any) -> None:
    product = head(model)
    weights = op.constant(np.ones((product.input_value(0).shape[1], 2), np.float32))
    put(product, 1, weights.output(0))
    model.validate_nodes_and_infer_types()


def two_outputs(model: Any) -> None:
    model.add_outputs([nodes(model, "ReduceMax")[0].output(0)])


def a_sigmoid(model: Any) -> None:
    after(model.get_results()[0].input_value(0), op.sigmoid)


def no_bias(model: Any) -> None:
    put(model.get_results()[0], 0, head(model).output(0))


def a_minimum(model: Any) -> None:
    node = nodes(model, "ReduceMax")[2]
    node.output(0).replace(op.reduce_min(node.input_value(0), node.input_value(1), False).output(0))


def a_maximum_of_half(model: Any) -> None:
    node = nodes(model, "ReduceMax")[2]
    put(node, 0, op.multiply(node.input_value(0), number(0.5)).output(0))


def a_variance_of_squares_unlike(model: Any) -> None:
    node = nodes(model, "Sqrt")[2].input_value(0).get_node()
    variance = next(v.get_node() for v in node.input_values() if v.get_node().get_type_name() == "ReduceMean")
    square = variance.input_value(0).get_node()
    put(square, 1, op.abs(square.input_value(1)).output(0))


def another_ceiling(model: Any) -> None:
    set_number(nodes(model, "Minimum")[7], 5)


def another_floor(model: Any) -> None:
    set_number(nodes(model, "Maximum")[7], -1)


def a_plain_relu(model: Any) -> None:
    node = nodes(model, "Minimum")[3]
    node.output(0).replace(operand(node))


def a_swish(model: Any) -> None:
    node = nodes(model, "Maximum")[3]
    node.output(0).replace(op.swish(operand(node)).output(0))


def quantised(model: Any) -> None:
    bounds = [op.constant(np.full((1, 1, 1, 1), value, np.float32)) for value in (0, 6)]
    after(nodes(model, "Minimum")[3].output(0), lambda x: op.fake_quantize(x, *bounds, *bounds, 256))


def other_colours(model: Any) -> None:
    node = nodes(model, "Transpose")[0]
    after(node.output(0), lambda x: op.gather(x, op.constant([2, 1, 0]), op.constant(1)))


def columns_first(model: Any) -> None:
    put(nodes(model, "Transpose")[0], 1, op.constant([0, 3, 2, 1]).output(0))


def the_negative(model: Any) -> None:
    exchange(*nodes(model, "Subtract")[0].inputs())


def one_mean(model: Any) -> None:
    set_number(nodes(model, "Subtract")[0], 127)


def dilated(model: Any) -> None:
    wide = {"dilations": [2, 2], "pads_begin": [2, 2], "pads_end": [2, 2]}
    again(nodes(model, "GroupConvolution")[4], op.group_convolution, **wide)


def padded_by_itself(model: Any) -> None:
    again(nodes(model, "GroupConvolution")[4], op.group_convolution, auto_pad="same_upper")


def no_padding(model: Any) -> None:
    again(nodes(model, "GroupConvolution")[-1], op.group_convolution, pads_begin=[0, 0], pads_end=[0, 0])
    model.validate_nodes_and_infer_types()


def one_bias_for_all(model: Any) -> None:
    readers = [entry.get_node() for entry in nodes(model, "GroupConvolution")[4].output(0).get_target_inputs()]
    (added,) = [node for node in readers if node.get_type_name() == "Add"]
    put(added, 1, number(0.1))


def a_difference_for_a_sum(model: Any) -> None:
    node = residuals(model)[0]
    node.output(0).replace(op.subtract(*node.input_values()).output(0))


def half_a_residual(model: Any) -> None:
    node = residuals(model)[0]
    put(node, 0, op.multiply(node.input_value(0), number(0.5)).output(0))


def a_residual_of_another_block(model: Any) -> None:
    first, second = residuals(model)[1:3]  # as wide and as large
    earlier = first.input_value(1 if first.input_value(0).get_node().get_type_name() == "Add" else 0)
    for place in (0, 1):
        if second.input_value(place) == first.output(0):
            put(second, place, earlier)


def residuals(model: Any) -> list[Any]:
    """Sums of two activations [1, C, H, W]."""
    adds = nodes(model, "Add")
    return [add for add in adds if all(len(v.shape) == 4 and v.shape[2] > 1 for v in add.input_values())]


def weights_that_are_computed(model: Any) -> None:
    node = nodes(model, "Convolution")[2]
    put(node, 1, op.multiply(node.input_value(1), number(2)).output(0))


ALTERATIONS = {
    epsilon_of_one_tap: "expected one epsilon, found 2",
    epsilon_of_one_channel: "epsilon",
    two_taps_exchanged: "something other than the ReduceMean of an activation",
    two_statistics_exchanged: "something other than the ReduceMean",
    a_tap_twice: "something other than the ReduceMean of an activation",
    a_tap_less: "54 pooled values of 19 activations",
    two_predictions: "one prediction",
    two_outputs: "one prediction",
    a_sigmoid: "a head without a bias",
    no_bias: "a head without a bias",
    a_minimum: "something other than the ReduceMax",
    a_maximum_of_half: "something other than the ReduceMax of an activation",
    a_variance_of_squares_unlike: "a variance that is not a mean square",
    another_ceiling: "an activation other than ReLU6",
    another_floor: "an activation other than ReLU6",
    a_plain_relu: "expected one Minimum, found 0",
    a_swish: "expected one Maximum, found 0",
    quantised: "expected one",
    other_colours: "expected one Subtract, found 0",
    columns_first: "another Transpose",
    the_negative: "a constant minus a value",
    one_mean: "not by colour channel",
    dilated: "dilated convolutions",
    padded_by_itself: "paddings of another kind",
    no_padding: "a padding that is not 'same'",
    one_bias_for_all: "a bias without a value for each channel",
    a_difference_for_a_sum: "expected one Convolution, found 0",
    half_a_residual: "expected one",
    a_residual_of_another_block: "expected one",
    weights_that_are_computed: "weights made by Multiply",
}


@pytest.mark.parametrize(("alter", "words"), ALTERATIONS.items(), ids=[alter.__name__ for alter in ALTERATIONS])
def test_an_altered_graph_is_refused(alter: Callable[[Any], None], words: str) -> None:
    altered = model()
    alter(altered)
    with pytest.raises(Unsuited, match=words):
        read(altered)
