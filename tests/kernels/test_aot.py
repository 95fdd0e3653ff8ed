"""Ahead-of-time compilation: the command in a process of its own, since here Triton interprets."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import kernel_cases  # noqa: F401  (first: it decides how Triton is imported)
from metaqap_fast.kernels import aot

pytestmark = pytest.mark.full


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-m", "metaqap_fast.kernels.aot", *arguments],
        capture_output=True,
        text=True,
        env={**clean, **environment},
    )


def test_every_kernel_compiles_within_its_registers(tmp_path):
    """One target of the six that the command compiles by default."""
    done = command("--target", "90", "-o", str(tmp_path))
    assert done.returncode == 0, done.stderr
    limits = json.loads(aot.LIMITS.read_text())
    assert {path.name for path in tmp_path.glob("*.cubin")} == {f"{name}.sm_90.cubin" for name in limits}
    assert all(path.read_bytes()[:4] == b"\x7fELF" for path in tmp_path.glob("*.cubin"))
    rows = (tmp_path / "usage.txt").read_text().splitlines()
    assert rows[0].split() == ["kernel", "target", "registers", "spills", "shared"]
    assert len(rows) == 1 + len(limits)


def test_every_target_is_committed():
    limits = json.loads(aot.LIMITS.read_text())
    assert [variant.name for variant in aot.variants()] == list(limits)
    assert all(sorted(map(int, counts)) == sorted(aot.TARGETS) for counts in limits.values())


@pytest.mark.parametrize(
    ("registers", "spills", "expected"),
    [(40, 0, None), (39, 0, None), (41, 0, "needs 41 registers, 40 are committed"), (40, 8, "spills 8 bytes")],
)
def test_what_fails(registers, spills, expected):
    lines = list(aot.faults([aot.Usage("k", 90, registers, spills, 0, b"")], {"k": {"90": 40}}))
    assert lines == ([] if expected is None else [f"k for sm_90 {expected}"])


def test_an_uncommitted_kernel_fails():
    assert "no committed register count" in next(aot.faults([aot.Usage("k", 90, 1, 0, 0, b"")], {}))


def test_it_refuses_to_interpret():
    done = command("--target", "90", TRITON_INTERPRET="1")
    assert done.returncode == 2
    assert done.stderr == "error: TRITON_INTERPRET is set: nothing would be compiled\n"
