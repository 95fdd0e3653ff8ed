"""Every path of the native kernel against the portable one, over random networks; and the C code under sanitizers."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metaqap_fast.engine.native import library as compiled
from metaqap_fast.engine.native.isa import PATHS, Isa, runs
from metaqap_fast.engine.native.kernel import Kernel, layout, levels
from metaqap_fast.engine.native.layout import aligned_bytes
from metaqap_fast.engine.native.layout_vectors import Int8Layout
from native_reference import need
from random_networks import EXAMPLES, network_of, networks, outputs, view_of

pytestmark = pytest.mark.full

SOURCES = Path(__file__).parents[2] / "kernels" / "cpu"
SETTINGS = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
VECTORS = [isa for isa in PATHS["int8"] if isa not in (Isa.AMX, Isa.PORTABLE)]


@pytest.mark.parametrize("isa", VECTORS)
@SETTINGS
@given(seed=st.integers(0, 2**31), shape=networks())
def test_int8_is_the_portable_path_bit_for_bit(isa: Isa, seed: int, shape: dict) -> None:
    """With the weights that the path is given."""
    need(isa, "int8")
    network, ranges = network_of(seed, shape)
    found = {}
    for path in (Isa.PORTABLE, isa):
        kernel = Kernel(network, path, ranges, Int8Layout(levels(isa)))
        memory = aligned_bytes(kernel.workspace)
        memory[:] = 255
        found[path] = kernel.run(view_of(seed, network.size), memory)
    assert np.isfinite(found[isa][1]).all()
    assert found[isa][0] == found[Isa.PORTABLE][0] and found[isa][1].tobytes() == found[Isa.PORTABLE][1].tobytes()


@pytest.mark.parametrize("isa", [isa for isa in PATHS["fp32"] if isa != Isa.PORTABLE])
@SETTINGS
@given(seed=st.integers(0, 2**31), shape=networks())
def test_fp32_is_the_portable_path_within_rounding(isa: Isa, seed: int, shape: dict) -> None:
    """A sum of n products in any order is off by n 2^-24 of the sum of their magnitudes at most (float64 says how large
    that is); ReLU6 and residuals carry errors on, weights enlarge them by no more than their rows' sums."""
    need(isa, "fp32")
    network, _ = network_of(seed, shape)
    exact, bound = outputs(network, view_of(seed, network.size))
    for path in (Isa.PORTABLE, isa):
        kernel = Kernel(network, path)
        found = kernel.run(view_of(seed, network.size), aligned_bytes(kernel.workspace))[1]
        assert (np.abs(found - exact) <= bound).all(), np.max(np.abs(found - exact) / bound)


def test_the_bound_sees_a_wrong_weight() -> None:
    """What the test above would not see is small: a weight of one depthwise convolution that is off by a fiftieth."""
    shape = EXAMPLES[0]
    network, _ = network_of(3, shape)
    exact, bound = outputs(network, view_of(3, 33))
    weights = network.blocks[1].depthwise.weights  # type: ignore[union-attr]
    weights *= np.float32(1.02)
    kernel = Kernel(network, Isa.PORTABLE)
    found = kernel.run(view_of(3, 33), aligned_bytes(kernel.workspace))[1]
    assert (np.abs(found - exact) > bound).any()


# --- sanitizers, and what older compilers leave out -------------------------------------------------------------------


def compiler() -> list[str]:
    found = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
    if not shutil.which(found[0]):
        pytest.skip("there is no C compiler: the native kernel is not tested under sanitizers")
    return found


def build(folder: Path, *options: str) -> Path:
    target = folder / "kernel.so"
    command = [*compiler(), "-g", "-fno-math-errno", "-ffp-contract=off", "-fPIC", "-shared", *options]
    subprocess.run([*command, *map(str, sorted(SOURCES.glob("*.c"))), "-o", str(target), "-lm"], check=True)
    return target


CASES = """
import ctypes, sys
from metaqap_fast.engine.native import kernel, library
found = library.declared(ctypes.CDLL(sys.argv[1]))
kernel.library = library.library = lambda: found
from metaqap_fast.engine.native.isa import PATHS, Isa, runs
from metaqap_fast.engine.native.layout import aligned_bytes
from random_networks import EXAMPLES, network_of, view_of
ran = 0
for seed, shape in enumerate(EXAMPLES):
    network, ranges = network_of(seed, shape)
    for precision in ("fp32", "int8"):
        for isa in PATHS[precision]:
            if isa != Isa.AMX and not runs(isa, precision):
                one = kernel.Kernel(network, isa, ranges if precision == "int8" else None)
                one.run(view_of(seed, network.size), aligned_bytes(one.workspace)[: one.workspace])
                ran += 1
print("ran", ran)
"""


def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    """Of addresses and of what C does not define, in every path that runs here, in memory of the size asked for."""
    library = build(
        tmp_path,
        "-O0",  # optimised, it takes many minutes to compile
        "-DCOMPILER=11",  # without AMX
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
    )
    runtime = subprocess.run([*compiler(), "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    preload = runtime.stdout.strip()
    if not Path(preload).is_absolute():
        pytest.skip("the C compiler has no address sanitizer")
    environment = {
        **os.environ,
        "LD_PRELOAD": preload,
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": os.pathsep.join([str(SOURCES.parents[1]), str(Path(__file__).parents[1] / "support")]),
        "PYTHONMALLOC": "malloc",  # so that each array is a block of its own
    }
    result = subprocess.run(
        [sys.executable, "-c", CASES, str(library)], env=environment, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0 and int(result.stdout.split()[-1]) > 0, result.stderr[-3000:]


@pytest.mark.parametrize(("version", "missing"), [(11, [Isa.AMX]), (9, [Isa.AMX, Isa.AVX_VNNI, Isa.AVX512_BF16])])
def test_an_older_compiler_leaves_paths_out(
    tmp_path: Path, version: int, missing: list[Isa], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = compiled.declared(ctypes.CDLL(str(build(tmp_path, "-O0", f"-DCOMPILER={version}"))))
    monkeypatch.setattr(compiled, "library", lambda: found)
    built = {isa for isa in Isa if any(int(found.mobilenet_has(isa, eight)) & 1 for eight in (0, 1))}
    assert built == {*Isa} - {*missing}
    for isa in missing:
        precision = "int8" if isa == Isa.AVX_VNNI else "bf16"
        assert f"does not know {isa.name}" in runs(isa, precision) or f"this CPU has no {isa.name}" in runs(
            isa, precision
        )
    assert not runs(Isa.PORTABLE, "fp32")


def test_layouts_are_the_paths() -> None:
    for precision, isas in PATHS.items():
        for isa in isas:
            assert layout(isa, precision == "int8") is not None
