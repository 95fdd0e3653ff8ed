"""Fuzzing: what was found before stays fixed, and a minute of looking for more."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_targets import TARGETS

HERE = Path(__file__).parent
FINDINGS = sorted((HERE / "findings").iterdir())


@pytest.mark.parametrize("finding", FINDINGS, ids=lambda path: path.name)
def test_findings_stay_fixed(finding: Path) -> None:
    TARGETS[finding.name.partition("-")[0]][0](finding.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_are_accepted(target: str) -> None:
    check, seeds = TARGETS[target]
    for seed in seeds():
        check(seed)


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="NOT FUZZED: no atheris for this Python")
@pytest.mark.slow  # what it finds differs from run to run: no reason for a change to fail
@pytest.mark.parametrize("target", TARGETS)
def test_a_minute_of_fuzzing(target: str) -> None:
    """Twenty seconds for each of the three; the nightly target takes ten minutes each."""
    command = [sys.executable, str(HERE / "fuzz.py"), target, "20"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "stat::number_of_executed_units" in result.stderr + result.stdout
