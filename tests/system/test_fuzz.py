"""Fuzzing: what was found before stays fixed, and a minute of looking for more."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz_targets import FUZZED, TARGETS
from metaqap_fast.errors import MetaqapError
from metaqap_fast.scores.probe import try_out

TESTS = Path(__file__).parents[1]
INPUTS = 1000
FINDINGS = sorted((TESTS / "findings").iterdir())


@pytest.mark.parametrize("finding", FINDINGS, ids=lambda path: path.name)
def test_findings_stay_fixed(finding: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaqap_fast.scores.probe.SECONDS", 2.0)
    TARGETS[finding.name.partition("-")[0]][0](finding.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_are_accepted(target: str) -> None:
    check, seeds = TARGETS[target]
    for seed in seeds():
        check(seed)


@pytest.mark.parametrize("command", ["inspect", "export", "evaluate", "resume"])
def test_a_score_file_on_which_hdf5_hangs_is_damaged(bundle: Path, folder: Path, tmp_path: Path, command: str) -> None:
    (finding,) = (path for path in FINDINGS if "timeout" in path.name)
    out, labels = tmp_path / "s.h5", tmp_path / "labels.csv"
    shutil.copy(finding, out)
    labels.write_text("image,mos\na.png,1\n")
    arguments = {
        "inspect": ["inspect", out],
        "export": ["export", out, tmp_path / "s.csv"],
        "evaluate": ["evaluate", out, "--labels", labels],
        "resume": ["score", folder, "--model", bundle, "-o", out, "--resume"],
    }[command]
    code = "from metaqap_fast.scores import probe; probe.SECONDS = 1.0; from metaqap_fast.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1 and "is damaged: HDF5 has not read it in 1 seconds" in result.stderr


def test_a_score_file_that_crashes_hdf5_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s.h5").write_bytes(b"")
    monkeypatch.setattr("metaqap_fast.scores.probe._CODE", "import os; os.kill(os.getpid(), 11)")
    with pytest.raises(MetaqapError, match="crashes on it \\(SIGSEGV\\)"):
        try_out(tmp_path / "s.h5")


@pytest.mark.full
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="NOT FUZZED: no atheris for this Python")
def test_some_fuzzing() -> None:
    """A thousand inputs for each target, side by side, the same ones each time: what others look for, and find, by
    chance belongs into the night. A finding is a file in tests/findings, to be committed with its mending.
    """
    command = [sys.executable, str(TESTS / "fuzz.py"), ",".join(FUZZED), "60", str(INPUTS)]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    _, *said = re.split(r"^--- ", done.stdout, flags=re.M)
    assert [each.partition(":")[0] for each in said] == list(FUZZED), done.stderr[-3000:]
    for each in said:
        found = re.search(r"stat::number_of_executed_units: *(\d+)", each)
        assert found is not None and int(found[1]) > 50 and " ended with status 0\n" in each, each[-3000:]
    assert done.returncode == 0
