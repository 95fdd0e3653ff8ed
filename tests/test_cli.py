"""The command line as a user meets it: messages, exit statuses, and rows that survive an interrupt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metaqap_fast.table import ScoreTable

Cli = Callable[..., Any]
COMMAND = [sys.executable, "-c", "from metaqap_fast.cli import main; main()"]


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False, **options
    )


def test_score_and_everything_after(bundle: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.h5"
    result = run("score", folder, "--model", bundle, "-o", out)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    for words in (
        "engine openvino",
        "precision",
        "10 scored, 3 failed (2 corrupt, 1 unsupported)",
        "worst:",
        "1 files skipped",
    ):
        assert words in result.stderr
    assert "libjpeg" not in result.stderr and "libpng" not in result.stderr
    assert len(ScoreTable.read(out)) == 13

    shown = run("inspect", out)
    assert shown.returncode == 0 and "13 rows, 10 scored" in shown.stdout and "bundle_digest" in shown.stdout
    assert "tiny" in run("inspect", bundle).stdout

    assert run("export", out, tmp_path / "s.csv").returncode == 0
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 14
    again = run("export", out, tmp_path / "s.csv")
    assert again.returncode == 2 and "exists" in again.stderr

    labels = tmp_path / "labels.csv"
    labels.write_text("name,mos\n" + "".join(f"b/{i}.jpg,{i / 10}\n{i}.png,{i / 9}\n" for i in range(5)))
    evaluated = run("evaluate", out, "--labels", labels, "--draws", 100, "--json")
    document = json.loads(evaluated.stdout)
    assert document["images"] == 10 and set(document["srocc"]) == {"value", "low", "high"}
    direct = run("evaluate", folder, "--labels", labels, "--draws", 100, "--model", bundle)
    assert direct.returncode == 0 and f"{document['srocc']['value']:.4f}" in direct.stdout


def test_json_is_alone_on_stdout(bundle: Path, folder: Path, tmp_path: Path) -> None:
    result = run("score", folder, "--model", bundle, "-o", tmp_path / "s.h5", "--json")
    summary = json.loads(result.stdout)
    assert result.stderr == ""
    assert summary["scored"] == 10 and summary["failed"] == {"corrupt": 2, "unsupported": 1}
    assert len(summary["worst"]) == len(summary["best"]) == 5
    assert summary["worst"][0]["score"] <= summary["worst"][4]["score"] <= summary["best"][4]["score"]


def test_quiet_prints_nothing(bundle: Path, folder: Path, tmp_path: Path) -> None:
    result = run("score", folder, "--model", bundle, "-o", tmp_path / "s.h5", "--quiet")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_strict(cli: Cli, bundle: Path, folder: Path, tmp_path: Path) -> None:
    assert cli("score", folder, "--model", bundle, "-o", tmp_path / "s.h5", "--strict").exit_code == 3
    assert cli("score", folder / "0.png", "--model", bundle, "-o", tmp_path / "t.h5", "--strict").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["score"], 2, "Missing argument"),
        (["score", "{tmp}/missing"], 2, "no such file or folder"),
        (["score", "{folder}", "--model", "nosuch"], 2, "unknown model 'nosuch'"),
        (["score", "{folder}", "--engine", "abacus"], 2, "abacus"),
        (["score", "{folder}", "--engine", "openvino", "--device", "cuda:0"], 2, "cuda:0"),
        (["score", "{folder}", "--batch-size", "0"], 2, "positive number"),
        (["score", "{folder}", "--resume", "--overwrite"], 2, "exclude"),
        (["score", "{folder}", "-o", "{tmp}/no/s.h5"], 2, "does not exist"),
        (["score", "{folder}", "-o", "{tmp}"], 2, "is a folder"),
        (["score", "{folder}", "-o", "{folder}/0.png"], 2, "exists"),
        (["evaluate", "{tmp}/no.h5", "--labels", "{tmp}/no.csv"], 2, "no.csv"),
        (["export", "{folder}/0.png", "{tmp}/x.csv"], 1, "not a readable HDF5 file"),
        (["inspect", "{folder}/0.png"], 1, "not a readable HDF5 file"),
        (["inspect", "{folder}"], 1, "not a model bundle"),
    ],
)
def test_mistakes_are_one_line(
    cli: Cli, bundle: Path, folder: Path, tmp_path: Path, arguments: list[str], status: int, message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    arguments = [a.format(tmp=tmp_path, folder=folder) for a in arguments]
    if arguments[0] == "score" and "--model" not in arguments:
        arguments += ["--model", str(bundle)]
    result = cli(*arguments)
    assert result.exit_code == status, result.output
    assert message in result.stderr and "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 4
    assert not list(tmp_path.glob("*.parts"))


def test_an_empty_folder_is_said_to_be_empty(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = cli("score", tmp_path / "empty", "--model", bundle, "-o", tmp_path / "s.h5")
    assert result.exit_code == 2 and "no image found" in result.stderr


def test_unwritable_output(bundle: Path, folder: Path) -> None:
    result = run("score", folder, "--model", bundle, "-o", "/proc/s.h5")
    assert result.returncode == 1 and "cannot write" in result.stderr and "Traceback" not in result.stderr


def many(folder: Path, count: int) -> Path:
    folder.mkdir()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    image.save(folder / "0000.png")
    for i in range(1, count):
        os.link(folder / "0000.png", folder / f"{i:04d}.png")
    return folder


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_commits_and_resume_completes(
    bundle: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    folder, out = many(tmp_path / "photos", 9000), tmp_path / "s.h5"
    arguments = ["score", str(folder), "--model", str(bundle), "-o", str(out)]
    process = subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("s.h5.parts/part-*.h5")) and time.monotonic() < deadline:
        time.sleep(0.01)
    start = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - start < 4
    assert process.returncode == status and "--resume" in errors and "Traceback" not in errors
    assert not out.exists()

    refused = run(*arguments)
    assert refused.returncode == 2 and "--resume" in refused.stderr
    resumed = run(*arguments, "--resume", "--json")
    assert resumed.returncode == 0, resumed.stderr
    summary = json.loads(resumed.stdout)
    assert summary["resumed_rows"] >= 1000 and summary["resumed_rows"] + summary["images"] == 9000
    assert len(ScoreTable.read(out)) == 9000
