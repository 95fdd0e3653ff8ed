"""The kernel by a clock, and at its best: what the benchmarks of its limits are made of."""

from __future__ import annotations

import time

import numpy as np
import pytest

from metaqap_fast.engine.native.isa import PATHS, Isa, runs
from metaqap_fast.engine.native.kernel import Kernel
from metaqap_fast.engine.native.layout import aligned_bytes
from metaqap_fast.engine.native.measure import parts, peak
from random_networks import EXAMPLES, network_of, view_of

HERE = [(isa, precision) for precision, found in PATHS.items() for isa in found if not runs(isa, precision)]


@pytest.mark.parametrize(("isa", "precision"), [one for one in HERE if one[0] not in (Isa.AMX, Isa.AVX512_BF16)])
def test_a_run_by_the_clock_is_the_same_run(isa: Isa, precision: str) -> None:
    network, ranges = network_of(0, EXAMPLES[0])
    kernel = Kernel(network, isa, ranges if precision == "int8" else None)
    view, memory = view_of(0, network.size), aligned_bytes(kernel.workspace)
    plain, taps = kernel.run(view, memory)
    seconds = np.zeros((len(kernel.blocks()), 5))
    timed, again = kernel.run(view, memory, seconds)
    assert timed == plain and np.array_equal(taps, again) and (seconds >= 0).all()
    start = time.perf_counter()
    found = parts(kernel, view, memory)
    assert 0 < sum(part.seconds for part in found) < time.perf_counter() - start
    assert all(part.seconds > 0 for part in found)


def test_operations_are_those_of_the_network() -> None:
    network, _ = network_of(0, EXAMPLES[0])
    kernel = Kernel(network, Isa.PORTABLE)
    found = parts(kernel, view_of(0, network.size), aligned_bytes(kernel.workspace))
    side, expected = -(-network.size // 2), 0.0
    first = network.blocks[0].depthwise
    assert first is not None and found[0].kind == "stem 3x3"
    assert found[0].operations == 2 * side**2 * 27 * len(first.weights)
    expected = 2 * np.prod(network.blocks[-1].expand.weights.shape[:2])  # type: ignore[union-attr]
    last = next(part for part in reversed(found) if part.kind == "expansion 1x1")
    assert last.operations % expected == 0 and last.operations > 0


@pytest.mark.parametrize(("isa", "precision"), HERE)
def test_a_peak_takes_as_long_as_its_rounds(isa: Isa, precision: str) -> None:
    if isa == Isa.PORTABLE:
        assert peak(isa, precision, 10) == 0
        return
    assert peak(isa, precision, 20) == 2 * peak(isa, precision, 10) > 0
    best = {}
    for rounds in (100_000, 400_000):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            done = peak(isa, precision, rounds)
            times.append(time.perf_counter() - start)
        best[rounds] = min(times)
    assert done / best[400_000] < (3e13 if isa == Isa.AMX else 1e12)  # more than a core can do: the loop is gone
    assert best[400_000] > 2 * best[100_000]
