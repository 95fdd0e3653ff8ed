"""Heads and units of a member, read, taken away and replaced."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from metaqap_fast.engine.openvino_core import shared_core
from metaqap_fast.engine.samples import generated
from metaqap_fast.model import bundle as bundles
from metaqap_fast.train.rehead import add_units, digest_of_body, drop_units, put_head, read_head, read_units
from native_reference import graph

FILE = bundles.load().members[0].file


def test_units_are_read_as_they_were_added_and_can_be_taken_away() -> None:
    model = onnx.load(FILE)
    found = read_units(model)
    assert found is not None and found[0].shape == (len(read_head(model)[0]), len(found[1]))
    alone = onnx.load(FILE)
    drop_units(alone)
    assert read_units(alone) is None and digest_of_body(alone) == digest_of_body(model)
    assert [d.dim_value for d in alone.graph.output[0].type.tensor_type.shape.dim][1:] == [1]
    again = onnx.ModelProto.FromString(alone.SerializeToString())
    add_units(again, *found)
    assert [np.array_equal(*both) for both in zip(read_units(again), found, strict=True)] == [True, True]  # type: ignore[arg-type]
    before = alone.SerializeToString()
    drop_units(alone)
    assert alone.SerializeToString() == before


def test_a_head_is_replaced() -> None:
    model = onnx.load(FILE)
    weights, bias = read_head(model)
    put_head(model, weights / 2, bias / 2)
    found, half = read_head(model)
    assert found == pytest.approx(weights / 2, rel=1e-3) and half == pytest.approx(bias / 2, rel=1e-3)
    assert digest_of_body(model) == digest_of_body(onnx.load(FILE))


@pytest.mark.full
def test_a_member_without_units_predicts_what_it_did(tmp_path_factory: pytest.TempPathFactory) -> None:
    model, path = onnx.load(FILE), tmp_path_factory.mktemp("member") / "alone.onnx"
    drop_units(model)
    onnx.save(model, path)
    said = [
        shared_core().compile_model(graph(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({0: generated(512, 1)})[0]
        for file in (path, FILE)
    ]
    assert said[0].shape == (1, 1) and np.array_equal(said[0], said[1][:, :1])
