"""Every level of CPU that this machine can play (METAQAP_FAST_ISA): what runs, what is recorded, what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from level_report import FROM_FP32
from metaqap_fast.engine import cpu

pytestmark = pytest.mark.full

SCRIPT = Path(__file__).parents[1] / "support" / "level_report.py"
TYPES = {"fp32": {"f32"}, "bf16": {"bf16"}, "int8": {"u8", "f32"}}  # of convolutions, as OpenVINO names them
LEVELS = pytest.mark.parametrize("level", cpu.playable())


def play(level: str, *command: str) -> subprocess.CompletedProcess[str]:
    surroundings = {name: value for name, value in os.environ.items() if name != cpu.ONEDNN}
    return subprocess.run(
        [sys.executable, *command], env={**surroundings, cpu.VARIABLE: level},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def on(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    @cache
    def report(level: str) -> dict[str, Any]:
        os.environ["METAQAP_FAST_CACHE"] = str(tmp_path_factory.getbasetemp() / "cache")
        done = play(level, str(SCRIPT))
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return report


@LEVELS
def test_the_whole_program_is_on_that_cpu(on: Callable[[str], dict[str, Any]], level: str) -> None:
    found, names = on(level), list(cpu.LEVELS)
    assert found["level"] == level
    assert found["vnni"] == (names.index(level) >= names.index("avx512_vnni"))
    assert found["default"] == ("bf16" if names.index(level) >= names.index("avx512_bf16") else "fp32")
    name, precision, reason = found["auto"]
    assert precision == found["default"]
    assert name == "native" or "the native engine" in reason  # where it does not run, the reason is given


@LEVELS
@pytest.mark.parametrize("precision", TYPES)
def test_what_is_recorded_is_what_ran(on: Callable[[str], dict[str, Any]], level: str, precision: str) -> None:
    """OpenVINO compiles a network of 101 convolutions in the precision, or the precision is refused in one line."""
    found = on(level)[precision]
    if precision == "bf16" and on(level)["default"] == "fp32":
        assert found == {"refused": f"OpenVINO has no bf16 on this CPU ({level}): use --precision fp32 or int8"}
        return
    assert set(found["ran"]) == TYPES[precision]
    assert precision != "int8" or found["ran"]["u8"] == 99  # but the first of either member


@LEVELS
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_it_moves_scores_no_further_than_documented(
    on: Callable[[str], dict[str, Any]], level: str, precision: str
) -> None:
    found = on(level)
    if "refused" in found[precision]:
        pytest.skip(f"{precision} is refused on {level}")
    difference = np.abs(np.subtract(found[precision]["scores"], found["fp32"]["scores"])).max()
    assert 0 < difference < FROM_FP32[precision]
    print(f"{level}, {precision}: {difference:.4f} from fp32")


@LEVELS
def test_threads_change_nothing(on: Callable[[str], dict[str, Any]], level: str) -> None:
    for precision in TYPES:
        assert on(level)[precision].get("threads_differ", 0.0) == 0.0


@LEVELS
def test_fp32_is_the_same_on_every_cpu_but_for_its_rounding(on: Callable[[str], dict[str, Any]], level: str) -> None:
    others = [on(each)["fp32"]["scores"] for each in cpu.playable()]
    # Members differ by some 1e-6, see test_native.py::test_the_graph_is_read_as_it_is.
    assert np.abs(np.subtract(on(level)["fp32"]["scores"], others)).max() < 1e-5


@LEVELS
def test_int8_sums_do_not_overflow_without_vnni(on: Callable[[str], dict[str, Any]], level: str) -> None:
    """The network for such CPUs gives the same where sums have 16 bits as where they have 32: to the bit on AVX2 and
    AVX512, by .003 otherwise rounded between layers without them. What overflows moves scores by up to .2."""
    wide = [each for each in cpu.playable() if on(each)["vnni"]]
    if not wide:
        pytest.skip("this machine has no VNNI to compare with")
    assert on(level)["narrow_ran"] == "int8"
    assert np.abs(np.subtract(on(level)["narrow"], on(wide[0])["narrow"])).max() < 0.01
    if not on(level)["vnni"]:
        assert on(level)["int8"]["scores"] == pytest.approx(on(level)["narrow"], abs=1e-6)


def test_a_level_that_this_machine_lacks_is_one_line(bundle: Path, folder: Path, tmp_path: Path) -> None:
    (missing, *_) = [name for name in cpu.LEVELS if name not in cpu.playable()] or ["avx1024"]
    arguments = ["score", str(folder), "--model", str(bundle), "-o", str(tmp_path / "s.h5")]
    done = play(missing, "-c", "from metaqap_fast.cli import main; main()", *arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"metaqap-fast: METAQAP_FAST_ISA={missing}: ")
    assert not (tmp_path / "s.h5").exists()
