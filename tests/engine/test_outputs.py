"""Hidden units beside the members: the same in every engine, and predictions are what they were to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from torch import nn

from metaqap_fast.engine.gpu import torch_engine
from metaqap_fast.engine.native.engine import NativeEngine
from metaqap_fast.engine.native.isa import Isa
from metaqap_fast.engine.native.kernel import smallest
from metaqap_fast.engine.native.library import library as native_library
from metaqap_fast.engine.native.reader import Unsuited, read
from metaqap_fast.engine.openvino_core import library, shared_core
from metaqap_fast.engine.openvino_engine import OpenVINOEngine
from metaqap_fast.engine.protocol import Engine
from metaqap_fast.engine.samples import generated
from metaqap_fast.infer import scored
from metaqap_fast.model.bundle import Bundle, Hidden, Member
from metaqap_fast.model.meta import MetaLearner
from metaqap_fast.model.readout import Readout
from metaqap_fast.train.rehead import add_units, read_head
from native_reference import exported, member, need

VIEWS = generated(512, 3)
META = MetaLearner((0.5, 0.5), 0.0, ((0.0, 0.01),), 1.0)
NAMES = ("noise", "banding")
UNITS = 3
LAST = ((0.1, 1.0, 0.0), (-0.1, 0.0, 1.0), (0.0, 0.5, -0.5))  # of units: to the score and to both reasons


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle, NDArray[np.float64]]:
    """Two small members; the same with three hidden units; and the first one's share of them, on its pooled taps."""
    folder = tmp_path_factory.mktemp("outputs")
    plain, members = [], []
    rng = np.random.default_rng(0)
    for i in range(2):
        path = folder / f"member{i}.onnx"
        exported(member(["ds_r1_k3_s2_e1_c16"], 96, activation=nn.ReLU6, views=VIEWS[:1]), path)
        plain.append(Member(f"member{i}", path, {}))
        model = onnx.load(path)
        weights = rng.normal(0, 0.05, (len(read_head(model)[0]), UNITS))
        add_units(model, np.zeros_like(weights), np.zeros(UNITS))  # replaced by the next
        add_units(model, weights, np.array([0.5, -0.25, 0.0]))
        onnx.save(model, folder / f"units{i}.onnx")
        members.append(replace(plain[0], file=folder / f"units{i}.onnx", units=UNITS))
    first = Bundle("plain", folder, tuple(plain), META, 512, "", {})
    return (
        first,
        replace(first, members=tuple(members), hidden=Hidden(NAMES, LAST, (0.0, 0.5, 0.0), (0.0, 1.0))),
        weights,
    )


def rows(engine: Engine) -> Iterator[NDArray[np.float32]]:
    try:
        for batch in engine.batches((i, view[None]) for i, view in enumerate(VIEWS)):
            yield from np.asarray(batch.predictions)
    finally:
        engine.close()


def test_columns_of_members_stand_side_by_side(bundles: tuple[Bundle, Bundle, NDArray[np.float64]]) -> None:
    plain, named, _ = bundles
    assert plain.readout == Readout((0, 1)) and plain.reasons == ()
    assert (
        named.readout == Readout((0, 4), (range(1, 4), range(5, 8)), LAST, (0.0, 0.5, 0.0), (0.0, 1.0))
        and named.readout.columns == 8
    )
    assert named.readout.reasons == 2 and plain.readout.reasons == 0


@pytest.mark.parametrize("engine", ["native", "openvino"])
def test_the_prediction_is_the_same_to_the_last_bit(
    bundles: tuple[Bundle, Bundle, NDArray[np.float64]], engine: str
) -> None:
    need(Isa.AVX2, "fp32")
    make = {"native": NativeEngine, "openvino": OpenVINOEngine}[engine]
    plain, named = (np.stack(list(rows(make(bundle, "fp32")))) for bundle in bundles[:2])
    assert plain.shape == (3, 2) and named[:, [0, 4]].tobytes() == plain.tobytes()


def test_every_engine_gives_the_same_units(bundles: tuple[Bundle, Bundle, NDArray[np.float64]]) -> None:
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


@pytest.mark.parametrize(("units", "taps"), [(1, 15), (3, 16), (5, 1003), (0, 7)])
def test_shares_are_products_with_the_taps(units: int, taps: int) -> None:
    rng = np.random.default_rng(units)
    weights, values = rng.normal(0, 1, (units, taps)).astype(np.float32), rng.normal(0, 1, taps).astype(np.float32)
    found = np.full(units + 1, 7, np.float32)  # one more, that is not written to
    native_library().mobilenet_units(weights.ctypes.data, units, taps, values.ctypes.data, found.ctypes.data)
    assert found[:-1] == pytest.approx(weights.astype(np.float64) @ values, rel=1e-5, abs=1e-5) and found[-1] == 7


@pytest.mark.parametrize(("units", "taps"), [(1, 15), (4, 16), (7, 1003), (0, 7), (9, 3)])
def test_shares_by_weights_in_16_bits_are_the_same_bits(units: int, taps: int) -> None:
    if not native_library().mobilenet_has_halves():
        pytest.skip("this CPU has no F16C: weights are kept in 32 bits")
    rng = np.random.default_rng(taps)
    scale = 10.0 ** rng.uniform(-8, 4, (units, taps))  # from below the least normal number of fp16 on
    half = (rng.normal(0, 1, (units, taps)) * scale).astype(np.float16)
    weights, values = half.astype(np.float32), rng.normal(0, 1, taps).astype(np.float32)
    found = np.full((2, units + 1), 7, np.float32)
    shape = units, taps, values.ctypes.data
    native_library().mobilenet_units(weights.ctypes.data, *shape, found[0].ctypes.data)
    native_library().mobilenet_units_half(half.ctypes.data, *shape, found[1].ctypes.data)
    assert found[0].tobytes() == found[1].tobytes() and found[1, -1] == 7


def test_weights_are_kept_in_16_bits_where_these_hold_them() -> None:
    exact = np.array([[1.0, 2.0**-24, -65504.0]], np.float32).T
    reads = bool(native_library().mobilenet_has_halves())
    assert (smallest(exact, Isa.AVX2).dtype == np.float16) == reads
    for weights in (exact, exact * np.float32(1.0001), exact * 2):
        for isa in (Isa.PORTABLE, Isa.AVX2):
            kept = smallest(weights, isa)
            assert kept.flags.c_contiguous and np.array_equal(kept, weights)
            assert kept.dtype == np.float32 or (isa == Isa.AVX2 and weights is exact)


def test_severities_are_the_mean_of_views_cut_off_at_0_and_1(
    bundles: tuple[Bundle, Bundle, NDArray[np.float64]],
) -> None:
    named = bundles[1]
    engine = OpenVINOEngine(named, "fp32")
    raw = np.stack(list(rows(OpenVINOEngine(named, "fp32"))))
    found = [result for _, result in scored(engine, [(0, VIEWS), (1, VIEWS[:0])], META, named.readout)]
    engine.close()
    columns = raw.mean(0)
    given = (columns[1:4] + columns[5:8]).clip(0) @ np.array(LAST) + [0.0, 0.5, 0.0]
    roots = np.where(given[1:] < 0.5, 0.5 + [1.0, 2.0] * (given[1:] - 0.5), given[1:])
    assert found[0].reasons == pytest.approx(roots.clip(0, 1) ** 2, abs=1e-5) and (roots > 0.01).any()
    assert found[0].members == pytest.approx(columns[[0, 4]] + given[0], abs=1e-5) and abs(given[0]) > 0.01
    assert np.isnan(found[1].reasons).all() and len(found[1].reasons) == 2


def test_outputs_of_other_values_are_refused(bundles: tuple[Bundle, Bundle, NDArray[np.float64]]) -> None:
    model = shared_core().read_model(bundles[1].members[0].file)
    model.reshape([1, 512, 512, 3])
    read(model)
    (product,) = [node for node in model.get_ordered_ops() if "beside.product" in node.get_friendly_name()]
    doubled = library().opset13.add(product.input_value(0), product.input_value(0))
    product.input(0).replace_source_output(doubled.output(0))
    with pytest.raises(Unsuited, match="do not read the pooled values of the prediction"):
        read(model)
