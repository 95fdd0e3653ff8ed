"""docs/jobs: each example is run as it stands, on a small folder, and gives the file of one run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from command import run
from metaqap_fast.scores.table import ScoreTable

JOBS = Path(__file__).parents[2] / "docs" / "jobs"
pytestmark = pytest.mark.full


@pytest.fixture
def environment(bundle: Path, tmp_path: Path) -> dict[str, str]:
    """In which `metaqap-fast` is this program, with a small model."""
    command = tmp_path / "bin" / "metaqap-fast"
    command.parent.mkdir()
    command.write_text(
        f'#!/bin/bash\nwhat=$1; shift\n[ "$what" = score ] && set -- "$@" --model {bundle} --precision fp32\n'
        f'exec {sys.executable} -c "from metaqap_fast.cli import main; main()" "$what" "$@"\n'
    )
    command.chmod(0o755)
    return {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}"}


@pytest.fixture
def whole(bundle: Path, folder: Path, tmp_path: Path) -> ScoreTable:
    (folder / "cut.jpg").unlink()
    run("score", folder, "-o", tmp_path / "whole.h5", "--model", bundle, "--precision", "fp32")
    return ScoreTable.read(tmp_path / "whole.h5")


def is_whole(path: Path, whole: ScoreTable) -> bool:
    found = ScoreTable.read(path)
    return found.keys == whole.keys and np.array_equal(found.score, whole.score, equal_nan=True)


def test_slurm(environment: dict[str, str], folder: Path, whole: ScoreTable, tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    for i in range(3):
        task = {"SLURM_ARRAY_TASK_ID": f"{i}", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_CPUS_PER_TASK": "2"}
        subprocess.run([JOBS / "slurm.sh", folder, results], env={**environment, **task}, check=True, timeout=60)
    text = (JOBS / "slurm.sh").read_text()
    merge = text[text.index('--wrap "') + len('--wrap "') :].split('"')[0].replace("RESULTS", str(results))
    subprocess.run(["bash", "-c", merge], env=environment, check=True, timeout=60)
    assert is_whole(results / "scores.h5", whole)


def test_kubernetes(environment: dict[str, str], folder: Path, whole: ScoreTable, tmp_path: Path) -> None:
    text = (JOBS / "kubernetes.yaml").read_text().replace("/results", str(tmp_path / "r")).replace("/data", str(folder))
    (tmp_path / "r").mkdir()
    job = yaml.safe_load(text)["spec"]
    container = job["template"]["spec"]["containers"][0]
    assert job["completionMode"] == "Indexed" and len(container["args"]) == 1
    assert f'/{job["completions"]}"' in container["args"][0] and job["podFailurePolicy"]["rules"]
    shell = container["args"][0].replace(f'/{job["completions"]}"', '/2"').replace("--max-failed 5%", "")
    for i in range(2):
        index = {"JOB_COMPLETION_INDEX": f"{i}"}
        subprocess.run([*container["command"], shell], env={**environment, **index}, check=True, timeout=60)
    merge = next(line for line in text.splitlines() if "metaqap-fast merge" in line).split("`")[1]
    subprocess.run(["bash", "-c", merge], env=environment, check=True, timeout=60)
    assert is_whole(tmp_path / "r" / "scores.h5", whole)


@pytest.mark.skipif(shutil.which("parallel") is None, reason="GNU parallel is not installed")
def test_parallel(environment: dict[str, str], folder: Path, whole: ScoreTable, tmp_path: Path) -> None:
    results = tmp_path / "results"
    for _ in range(2):  # a second night has nothing to score
        subprocess.run([JOBS / "parallel.sh", folder, results, "2"], env=environment, check=True, timeout=120)
        assert is_whole(results / "scores.h5", whole)
