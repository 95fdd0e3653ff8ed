"""Outputs beside a member's prediction: the same in every engine, and the prediction is what it was to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from torch import nn

from metaqap_fast.engine.gpu import torch_engine
from metaqap_fast.engine.native.engine import NativeEngine
from metaqap_fast.engine.native.isa import Isa
from metaqap_fast.engine.native.reader import Unsuited, read
from metaqap_fast.engine.openvino_core import library, shared_core
from metaqap_fast.engine.openvino_engine import OpenVINOEngine
from metaqap_fast.engine.protocol import Engine
from metaqap_fast.engine.samples import generated
from metaqap_fast.infer import scored
from metaqap_fast.model.bundle import Bundle, Layout, Member
from metaqap_fast.model.meta import MetaLearner
from metaqap_fast.train.rehead import add_outputs, read_head, replace_head
from native_reference import exported, member, need

VIEWS = generated(512, 3)
META = MetaLearner((0.5, 0.5), 0.0, ((0.0, 0.01),), 1.0)
NAMES = ("noise", "banding", "colour cast")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle, NDArray[np.float64]]:
    """Two small members; the same with three outputs of the first; and weights of these, on the pooled taps."""
    folder = tmp_path_factory.mktemp("outputs")
    plain = []
    for i in range(2):
        path = folder / f"member{i}.onnx"
        exported(member(["ds_r1_k3_s2_e1_c16"], 96, activation=nn.ReLU6, views=VIEWS[:1]), path)
        plain.append(Member(f"member{i}", path, {}))
    model = onnx.load(plain[0].file)
    weights = np.random.default_rng(0).normal(0, 0.05, (len(read_head(model)[0]), len(NAMES)))
    add_outputs(model, np.zeros_like(weights), np.zeros(len(NAMES)))  # replaced by the next
    add_outputs(model, weights, np.array([0.5, -0.25, 0.0]))
    onnx.save(model, folder / "named.onnx")
    named = replace(plain[0], file=folder / "named.onnx", outputs=NAMES)
    first = Bundle("plain", folder, tuple(plain), META, 512, "", {})
    return first, replace(first, members=(named, plain[1])), weights


def rows(engine: Engine) -> Iterator[NDArray[np.float32]]:
    try:
        for batch in engine.batches((i, view[None]) for i, view in enumerate(VIEWS)):
            yield from np.asarray(batch.predictions)
    finally:
        engine.close()


def test_columns_of_members_stand_side_by_side(bundles: tuple[Bundle, Bundle, NDArray[np.float64]]) -> None:
    plain, named, _ = bundles
    assert plain.layout == Layout((0, 1)) and plain.reasons == ()
    assert named.layout == Layout((0, 4), (1, 2, 3)) and named.reasons == NAMES and named.layout.columns == 5


@pytest.mark.parametrize("engine", ["native", "openvino"])
def test_the_prediction_is_the_same_to_the_last_bit(
    bundles: tuple[Bundle, Bundle, NDArray[np.float64]], engine: str
) -> None:
    need(Isa.AVX2, "fp32")
    make = {"native": NativeEngine, "openvino": OpenVINOEngine}[engine]
    plain, named = (np.stack(list(rows(make(bundle, "fp32")))) for bundle in bundles[:2])
    assert plain.shape == (3, 2) and named[:, [0, 4]].tobytes() == plain.tobytes()


def test_every_engine_gives_the_same_outputs(bundles: tuple[Bundle, Bundle, NDArray[np.float64]]) -> None:
    need(Isa.AVX2, "fp32")
    named = bundles[1]
    native, openvino, torch = (
        np.stack(list(rows(engine)))
        for engine in (
            NativeEngine(named, "fp32"),
            OpenVINOEngine(named, "fp32"),
            torch_engine.create(named, "fp32", None, batch=2),
        )
    )
    assert np.abs(native[:, 1:4]).max() > 0.1
    assert openvino == pytest.approx(native, abs=2e-3) and torch == pytest.approx(native, abs=2e-3)


def test_severities_are_the_mean_of_views_cut_off_at_0_and_1(
    bundles: tuple[Bundle, Bundle, NDArray[np.float64]],
) -> None:
    named = bundles[1]
    engine = OpenVINOEngine(named, "fp32")
    raw = np.stack(list(rows(OpenVINOEngine(named, "fp32"))))
    found = [result for _, result in scored(engine, [(0, VIEWS), (1, VIEWS[:0])], META, named.layout)]
    engine.close()
    assert found[0].reasons == pytest.approx(raw[:, 1:4].mean(0).clip(0, 1), abs=1e-6)
    assert found[0].members == pytest.approx(raw[:, [0, 4]].mean(0), abs=1e-6)
    assert np.isnan(found[1].reasons).all() and len(found[1].reasons) == 3


def test_outputs_of_other_values_are_refused(bundles: tuple[Bundle, Bundle, NDArray[np.float64]]) -> None:
    model = shared_core().read_model(bundles[1].members[0].file)
    model.reshape([1, 512, 512, 3])
    read(model)
    (product,) = [node for node in model.get_ordered_ops() if "beside.product" in node.get_friendly_name()]
    doubled = library().opset13.add(product.input_value(0), product.input_value(0))
    product.input(0).replace_source_output(doubled.output(0))
    with pytest.raises(Unsuited, match="do not read the pooled values of the prediction"):
        read(model)


def test_a_head_is_replaced(bundles: tuple[Bundle, Bundle, NDArray[np.float64]], tmp_path: Path) -> None:
    model = onnx.load(bundles[1].members[0].file)
    weights, bias = read_head(model)
    replace_head(model, 2 * weights, 2 * bias)
    doubled = tmp_path / "doubled.onnx"
    onnx.save(model, doubled)
    changed = replace(bundles[1], members=(replace(bundles[1].members[0], file=doubled), bundles[1].members[1]))
    before, after = (np.stack(list(rows(OpenVINOEngine(bundle, "fp32")))) for bundle in (bundles[1], changed))
    assert (
        after[:, 0] == pytest.approx(2 * before[:, 0], rel=1e-4) and after[:, 1:].tobytes() == before[:, 1:].tobytes()
    )
