"""The native kernel: what it computes, in each arithmetic, against OpenVINO in fp32 and torch rounding alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

import float64
from metaqap_fast.engine.deviation import TOLERANCE, reference
from metaqap_fast.engine.native import engine as native
from metaqap_fast.engine.native.correction import corrected, typical
from metaqap_fast.engine.native.isa import PATHS, Isa, paths
from metaqap_fast.engine.native.kernel import Kernel, levels
from metaqap_fast.engine.native.layout import aligned_bytes
from metaqap_fast.engine.native.layout_vectors import Int8Layout
from metaqap_fast.engine.native.packing import (
    NARROWED,
    SMALLEST,
    WIDENED,
    Levels,
    arranged,
    finest,
    rounded,
    units,
    whole_numbers,
)
from metaqap_fast.engine.native.reader import Network, read
from metaqap_fast.engine.samples import generated
from metaqap_fast.model import bundle as bundles
from metaqap_fast.model.meta import combine
from metaqap_fast.train.ranges import measure_ranges
from native_reference import ARITHMETICS, KINDS, by_openvino, differences, exported, graph, member, need, pooled

VIEWS = generated(512, 4)
# Of means, deviations and maxima: what rounding in another order makes of them, deep in a network. The arithmetic's own
# roundings are in what is compared with.
ROUNDING = {
    "fp32": (1e-5, 3e-5, 1e-5),
    "bf16": (0.01, 0.015, 0.02),
    "int8": (0.06, 0.1, 0.2),
    "bf16 AMX": (0.02, 0.05, 0.06),  # sums of the depthwise convolution, and of squares, in fp16
    "int8 AMX": (0.06, 0.12, 0.25),
}
FROM_FP32 = {"fp32": 1e-4, "bf16": 0.15, "int8": 0.25}
FIVES = ["ir_r2_k5_s2_e6_c24", "ir_r2_k3_s2_e6_c40", "ir_r1_k5_s1_e6_c40", "ir_r2_k3_s2_e4_c112", "ir_r2_k5_s2_e3_c48"]
THREES = ["ir_r2_k3_s2_e6_c24", "ir_r2_k5_s2_e6_c40", "ir_r1_k3_s1_e6_c112", "ir_r2_k5_s2_e2_c80", "ir_r2_k3_s2_e3_c16"]
ODD = ["ds_r1_k3_s1_e1_c20", "ir_r1_k5_s2_e8_c72", "ir_r1_k3_s2_e2_c8", "ir_r1_k5_s2_e4_c33"]
SMALL = ["ds_r1_k3_s2_e1_c16", *FIVES[:2], "ir_r1_k3_s2_e2_c48", "ir_r1_k3_s2_e2_c48"]
# Blocks in timm's spelling, channels before the head and of the stem, padding: "" is alike on all sides, "same" is not.
NETWORKS = {
    "symmetric": (["ds_r1_k3_s1_e1_c16", *FIVES], 336, 32, ""),
    "asymmetric": (["ds_r1_k5_s1_e1_c16", *THREES], 336, 32, "same"),
    "odd channels": (ODD, 80, 64, ""),
    "8 pixels at last": (SMALL, 96, 96, "same"),
}
MEMBERS = {member.name: member for member in bundles.load().members}


@dataclass(frozen=True)
class Case:
    """A network; what its head reads of the last view, by OpenVINO in fp32; the ranges of its products' inputs."""

    network: Network
    taps: NDArray[np.float32]
    ranges: list[float]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    @cache
    def make(name: str) -> Case:
        if name in MEMBERS:
            path, ranges = MEMBERS[name].file, MEMBERS[name].ranges
            model = graph(path)
        else:
            blocks, last, stem, padding = NETWORKS[name]
            path = tmp_path_factory.mktemp("network") / "member.onnx"
            model = exported(member(blocks, last, padding, stem=stem, views=VIEWS[:2]), path)
            ranges = measure_ranges(path, VIEWS[:3])
        return Case(read(model), by_openvino(model, VIEWS[-1:])[0], native.largest(model, ranges))

    return make


@pytest.mark.parametrize("size", [256, 288, 320, 384, 448])
def test_bf16_runs_rows_that_do_not_end_with_eight_pixels(size: int) -> None:
    """The last eight pixels of a row overlap those before: 9 of them at last, 10, 12 and 14 here."""
    need(Isa.AVX512_BF16, "bf16")
    (view,) = generated(size, 1)
    for each in MEMBERS.values():
        network = read(graph(each.file, size))
        kernel = Kernel(network, Isa.AVX512_BF16)
        memory = aligned_bytes(kernel.workspace)
        memory[:] = 255  # no number, if it were read
        taps = kernel.run(view, memory)[1]
        found = differences(taps, pooled(network, view, Isa.AVX512_BF16))
        assert (found < ROUNDING["bf16"]).all(), found.max(0)


def allowed(isa: Isa, precision: str) -> tuple[float, float, float]:
    return ROUNDING[f"{precision} AMX" if isa == Isa.AMX else precision]


def run(network: Network, isa: Isa, ranges: Sequence[float] | None = None) -> tuple[float, NDArray[np.float32]]:
    kernel = Kernel(network, isa, ranges)
    return kernel.run(VIEWS[-1], aligned_bytes(kernel.workspace))


def rounding(network: Network, exact: float64.Pooled) -> NDArray[np.float64]:
    """What float32 may make of the taps, as `differences` gives it."""
    return float64.K * differences(float64.flat(float64.pooled(network, VIEWS[-1], errors=0)), exact)


FULL = dict.fromkeys(("odd channels", "8 pixels at last"), pytest.mark.full)


@pytest.mark.parametrize("name", [pytest.param(name, marks=FULL.get(name, ())) for name in (*MEMBERS, *NETWORKS)])
def test_the_graph_is_read_as_it_is(case: Callable[[str], Case], name: str) -> None:
    """What was read is what OpenVINO computes of the graph in fp32, up to fp32's rounding."""
    network = case(name).network
    exact = float64.pooled(network, VIEWS[-1])
    found, allowed = differences(case(name).taps, exact), rounding(network, exact)
    assert (found <= allowed).all(), (found / allowed).max(0)
    print(f"{name}: {found.max():.1e} of {allowed.max():.1e} allowed, {(found / allowed).max():.2f} of it at most")


def test_rounding_is_less_than_a_misread_graph(case: Callable[[str], Case]) -> None:
    """What the test above would not see: a padding of one block in eighteen that is off by a pixel."""
    network = case("mobilenetv2").network
    exact, block = float64.pooled(network, VIEWS[-1]), network.blocks[16]
    assert block.depthwise is not None
    top, left = block.depthwise.pads
    shifted = replace(block, depthwise=replace(block.depthwise, pads=(top - 1, left)))
    other = replace(network, blocks=(*network.blocks[:16], shifted, *network.blocks[17:]))
    assert (differences(float64.flat(float64.pooled(other, VIEWS[-1])), exact) > rounding(network, exact)).any()


@ARITHMETICS
@pytest.mark.parametrize("name", [*MEMBERS, *NETWORKS])
def test_the_kernel_computes_the_network(case: Callable[[str], Case], name: str, isa: Isa, precision: str) -> None:
    need(isa, precision)
    network, ranges = case(name).network, case(name).ranges if precision == "int8" else None
    prediction, taps = run(network, isa, ranges)
    assert prediction == pytest.approx(network.bias + network.weights.astype(np.float64) @ taps, abs=1e-4)
    found = differences(taps, pooled(network, VIEWS[-1], isa, ranges))
    assert (found < allowed(isa, precision)).all(), found.max(0)
    from_fp32 = differences(taps, pooled(network, VIEWS[-1]))
    assert from_fp32.max() < FROM_FP32[precision]
    print(f"{name}: from what is rounded alike {found.max(0)}, from fp32 {from_fp32.max(0)}")


@pytest.mark.parametrize("isa", PATHS["bf16"])
@pytest.mark.parametrize(("name", "place"), [("mobilenetv2", 0), ("mobilenetv2", 16), ("efficientnet_lite0", 5)])
def test_another_padding_is_another_network(case: Callable[[str], Case], name: str, place: int, isa: Isa) -> None:
    """The kernel pads as it is told, and what `ROUNDING` lets pass is less than a wrong padding makes."""
    need(isa, "bf16")
    network = case(name).network
    block = network.blocks[place]
    assert block.depthwise is not None
    top, left = block.depthwise.pads
    shifted = replace(block, depthwise=replace(block.depthwise, pads=(top + 1 if top == 0 else top - 1, left)))
    other = replace(network, blocks=(*network.blocks[:place], shifted, *network.blocks[place + 1 :]))
    _, taps = run(other, isa)
    assert (differences(taps, pooled(other, VIEWS[-1], isa)) < allowed(isa, "bf16")).all()
    assert (differences(taps, pooled(network, VIEWS[-1], isa)) > allowed(isa, "bf16")).any()


@ARITHMETICS
def test_scores_are_near_those_in_fp32(isa: Isa, precision: str) -> None:
    need(isa, precision)
    bundle = bundles.load()
    kernels = native.kernels(bundle, isa, precision)
    memory = aligned_bytes(max(kernel.workspace for kernel in kernels))
    rows = [[column for kernel in kernels for column in kernel.columns(view, memory)] for view in VIEWS]
    given = np.array(rows, np.float32), reference(bundle, VIEWS)
    scores = [combine(bundle.readout(columns)[0], bundle.meta)[0] for columns in given]
    assert 0 < np.abs(scores[0] - scores[1]).max() < TOLERANCE[precision]


@KINDS
def test_only_the_view_is_read(case: Callable[[str], Case], isa: Isa, precision: str) -> None:
    """Neither the bytes before and after it, nor what an earlier one left in the memory."""
    need(isa, precision)
    ranges = case("asymmetric").ranges if precision == "int8" else None
    kernel = Kernel(case("asymmetric").network, isa, ranges)
    memory, results = aligned_bytes(kernel.workspace), set()
    for around in (0, 255):
        memory[:] = around  # 255: as bf16, fp16 and fp32 not a number
        many = np.full((3, 512, 512, 3), around, np.uint8)
        many[1] = VIEWS[0]
        for view in (many[1], VIEWS[0]):
            prediction, taps = kernel.run(view, memory)
            results.add((prediction, taps.tobytes()))
    assert len(results) == 1


def test_paths_agree(case: Callable[[str], Case]) -> None:
    """In int8 bit for bit, in fp32 within rounding."""
    need(Isa.PORTABLE, "int8")
    network, ranges = case("odd channels").network, case("odd channels").ranges
    whole = set()
    for isa in paths("int8"):
        if isa != Isa.AMX:
            kernel = Kernel(network, isa, ranges, Int8Layout(Levels(weights=64)))  # which every path takes
            whole.add(kernel.run(VIEWS[-1], aligned_bytes(kernel.workspace))[1].tobytes())
    assert len(whole) == 1
    exact = run(network, Isa.PORTABLE)[1]
    for isa in paths("fp32"):
        assert run(network, isa)[1] == pytest.approx(exact, rel=1e-4, abs=1e-5)


@ARITHMETICS
@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_flat_image_is_flat(level: int, isa: Isa, precision: str) -> None:
    """Away from the edges nothing varies: a deviation that fp16's rounding made would show."""
    need(isa, precision)
    view = np.full((512, 512, 3), level, np.uint8)
    found = []
    for how, what in ((isa, precision), (Isa.PORTABLE, "fp32")):
        (kernel, *_) = native.kernels(bundles.load(), how, what)
        found.append(kernel.run(view, aligned_bytes(kernel.workspace))[1][32:64])  # deviations of the stem
    # A border of one pixel in 256: a deviation of what the border differs by times .09, nothing else.
    assert np.abs(found[0] - found[1]).max() < (0.002 if precision == "int8" else 0.001)


@ARITHMETICS
def test_what_no_number_of_the_ring_can_hold_is_0_or_6(case: Callable[[str], Case], isa: Isa, precision: str) -> None:
    """Activations before ReLU6 that fp16, or an int16, cannot hold; and a channel that is its bias alone."""
    need(isa, precision)
    network, ranges = case("asymmetric").network, case("asymmetric").ranges if precision == "int8" else None
    block = network.blocks[2]
    assert block.expand is not None
    weights, bias = block.expand.weights.copy(), block.expand.bias.copy()
    bias[:4] = 1e6, -1e6, 70_000, -70_000
    weights[4:6], bias[4:6] = 0, (2.5, 7)
    other = replace(block, expand=replace(block.expand, weights=weights, bias=bias))
    network = replace(network, blocks=(*network.blocks[:2], other, *network.blocks[3:]))
    found = differences(run(network, isa, ranges)[1], pooled(network, VIEWS[-1], isa, ranges))
    assert (found < allowed(isa, precision)).all(), found.max(0)


@pytest.mark.parametrize("isa", [Isa.AMX, Isa.AVX2])
def test_what_is_over_the_range_is_cut_off(case: Callable[[str], Case], isa: Isa) -> None:
    """In int8 a value that its calibration did not see is the largest that it saw, for the head too."""
    need(isa, "int8")
    network, ranges = case("symmetric").network, list(case("symmetric").ranges)
    assert ranges[2] == 6  # of what the second projection reads
    ranges[2] = 2.0
    found = run(network, isa, ranges)[1]
    assert (differences(found, pooled(network, VIEWS[-1], isa, ranges)) < allowed(isa, "int8")).all()
    assert (differences(found, pooled(network, VIEWS[-1])) > allowed(isa, "int8")).any()


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("isa", [Isa.AMX, Isa.AVX2])
def test_corrected_biases_take_back_what_rounded_weights_shift(
    case: Callable[[str], Case], name: str, isa: Isa
) -> None:
    """Means of the taps over views other than those that the correction saw, by the weights alone and by the kernel."""
    need(isa, "int8")
    exactly = isa if isa == Isa.AMX else Isa.AVX2
    network, ranges = case(name).network, case(name).ranges
    other = corrected(network, typical(network, exactly, VIEWS), ranges, levels(isa))
    views = [view[::-1, ::-1].copy() for view in VIEWS]

    def taps(network: Network, ranges: Sequence[float] | None) -> NDArray[np.float64]:
        kernel = Kernel(network, isa if ranges else exactly, ranges)
        memory = aligned_bytes(kernel.workspace)
        return np.mean([kernel.run(view, memory)[1] for view in views], 0, np.float64)

    exact = taps(network, None)
    before, after = (np.abs(taps(each, ranges) - exact).mean() for each in (network, other))
    assert after < 0.8 * before
    for each, was in zip(other.blocks, network.blocks, strict=True):
        assert each.project is None or np.abs(each.project.bias - was.project.bias).max() > 0


def test_whole_numbers_are_the_values() -> None:
    rng = np.random.default_rng(0)
    scale, bias = (10 ** rng.uniform(-4, -2, 500)).astype(np.float32), rng.uniform(-9, 9, 500).astype(np.float32)
    scale[:9], bias[:9] = finest(1), np.linspace(-9, 9, 9)
    sums = (rng.uniform(-20, 20, (200, 500)) / scale).astype(np.int64)
    for bits in (11, 13):
        whole, shift, cap, step = whole_numbers(scale, bias, bits)
        numbers = np.minimum(np.clip(sums + whole, 0, 65535) >> shift, cap)
        error = numbers * step.astype(np.float64) - np.clip(sums * scale.astype(np.float64) + bias, 0, 6)
        assert (np.abs(error).max(0) <= step).all()
        assert (numbers.max(0)[shift > 0] >= 2 ** (bits - 1) - 1).all() and (numbers <= 2**bits).all()
        assert abs(np.mean(error / step)) < 0.01
    bits11 = np.arange(2**11, dtype=np.uint16).view(np.float16)  # as the ring is read
    assert (bits11 == np.arange(2**11) * SMALLEST).all()
    whole, steps = rounded(np.full((1, 3), 1e-9, np.float32), finest(0.01))
    assert not whole.any() and steps[0] * 0.01 == pytest.approx(6 / 65535)


def test_units_make_fp16_hold_every_weight() -> None:
    largest = np.array([0, 1e-9, 1, 32768, 32769, 1e9], np.float32)
    unit = units(largest)
    assert (unit == [1, 1, 1, 1, 0.5, 2**-15]).all() and np.isfinite((unit * largest).astype(np.float16)).all()


def test_orders_hold_every_channel_once() -> None:
    for order in (WIDENED, NARROWED):
        assert sorted(order) == list(range(len(order)))
    values = np.arange(1, 41)
    assert (arranged(values, WIDENED)[:8] == [1, 2, 3, 4, 9, 10, 11, 12]).all()
    assert sorted(arranged(values, WIDENED)) == [0] * 24 + list(values)  # padded to two times 32


@ARITHMETICS
def test_the_rest_of_the_program_keeps_its_small_numbers(isa: Isa, precision: str) -> None:
    """What the kernel sets for itself (floats under 1e-38 are 0) is as it was when it returns."""
    need(isa, precision)
    (kernel, *_) = native.kernels(bundles.load(), isa, precision)
    kernel.run(VIEWS[0], aligned_bytes(kernel.workspace))
    assert np.float32(1e-30) * np.float32(1e-10) > 0


def test_what_the_kernel_would_read_beyond_is_refused() -> None:
    need(Isa.PORTABLE, "fp32")
    (kernel, *_) = native.kernels(bundles.load(), Isa.PORTABLE, "fp32")
    memory, view = aligned_bytes(kernel.workspace), VIEWS[0]
    for wrong in (view[:511], view[:, :, :2], view.astype(np.float32), view[None]):
        with pytest.raises(ValueError, match="a view is uint8"):
            kernel.run(wrong, memory)
    for less in (memory[:-64], memory[1:]):
        with pytest.raises(ValueError, match="a workspace has"):
            kernel.run(view, less)
