"""Several devices: here CPU processes, which must give the file that one process gives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metaqap_fast import UsageError
from metaqap_fast.errors import MetaqapError
from metaqap_fast.gpu_errors import DecoderDisagrees
from metaqap_fast.input.files import Listing
from metaqap_fast.run import Summary
from metaqap_fast.scale.shards import Share, cores, run_shards, shard_path
from metaqap_fast.scores.table import ScoreTable

COMMAND = [sys.executable, "-c", "from metaqap_fast.cli import main; main()"]


def same(a: Path, b: Path) -> None:
    one, two = ScoreTable.read(a), ScoreTable.read(b)
    assert one.keys == two.keys and one.error == two.error
    for name in ("score", "uncertainty", "members", "status", "width", "height", "nbytes"):
        assert getattr(one, name).tobytes() == getattr(two, name).tobytes(), name
    for name in set(one.attributes) - {"created"}:
        assert np.array_equal(one.attributes[name], two.attributes[name]), name


def test_shares_are_the_listing_dealt_out(folder: Path) -> None:
    keys = [entry.key for entry in Listing([folder])]
    dealt = [[entry.key for entry in Share([str(folder)], i, 3)] for i in range(3)]
    assert dealt == [keys[0::3], keys[1::3], keys[2::3]]
    left = Share([str(folder)], 0, 3, frozenset(keys[:4]))
    assert [entry.key for entry in left] == [key for key in keys[0::3] if key not in keys[:4]]


def test_the_cores_are_dealt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each of a GPU's processes starts a decoding thread on every core."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3, 8, 9, 10, 11})
    assert [cores(i, 3) for i in range(3)] == [{0, 1}, {2, 3}, {8, 9}]
    assert [cores(i, 10) for i in (0, 9)] == [{0}, {1}]


def test_a_decoder_that_gives_wrong_pixels_has_a_status_of_its_own(
    bundle: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Any
) -> None:
    left: list[int] = []
    monkeypatch.setattr("metaqap_fast.signals.leave", lambda status: left.append(status))

    def wrong(*_: object, **__: object) -> None:
        raise DecoderDisagrees("the decoder on cuda:0 gives wrong pixels")

    monkeypatch.setattr("metaqap_fast.scorer.Scorer.stream", wrong)
    result = cli("score", folder, "-o", tmp_path / "s.h5", "--model", bundle, "--precision", "fp32")
    assert result.exit_code == 4 and left == [4] and "gives wrong pixels" in result.stderr


def test_two_processes_give_the_file_of_one(cli: Any, bundle: Path, folder: Path, tmp_path: Path) -> None:
    options = ["--model", bundle, "--precision", "fp32", "--quiet"]
    assert cli("score", folder, "-o", tmp_path / "one.h5", "--device", "cpu", *options).exit_code == 0
    result = subprocess.run(
        [*COMMAND, "score", str(folder), "-o", str(tmp_path / "two.h5"), "--device", "cpu,cpu", "--strict",
         *map(str, options[:-1])], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 3 and "10 scored, 3 failed (2 corrupt, 1 unsupported)" in result.stderr, result.stderr
    assert "1 file skipped" in result.stderr and "worst:" in result.stderr
    same(tmp_path / "one.h5", tmp_path / "two.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.h5", "photos", "two.h5"]
    (folder / "new.png").write_bytes((folder / "0.png").read_bytes())
    summary = run_shards(
        ["cpu", "cpu"], [str(folder)], str(tmp_path / "two.h5"), "resume", {"model": str(bundle), "precision": "fp32"}
    )
    assert (summary.done, summary.images) == (13, 1)
    assert cli("score", folder, "-o", tmp_path / "one.h5", "--resume", *options).exit_code == 0
    same(tmp_path / "one.h5", tmp_path / "two.h5")


def test_a_killed_process_is_named_and_its_rows_are_kept(
    bundle: Path, tmp_path: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "many", tmp_path / "s.h5"
    source.mkdir()
    photo.save(source / "0.jpg")
    for i in range(1, 1200):
        (source / f"{i}.jpg").hardlink_to(source / "0.jpg")
    options = {"model": str(bundle), "precision": "fp32"}
    started: list[Any] = []
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(real(*a, **k)) or started[-1])

    def kill(summary: Summary) -> None:
        if summary.images and started[1].poll() is None:
            os.kill(started[1].pid, signal.SIGKILL)

    with pytest.raises(MetaqapError, match=r"the process on cpu ended with status -9.*--resume"):
        run_shards(["cpu", "cpu"], [str(source)], str(out), "new", options, kill)
    assert any(Path(f"{shard_path(out, 0, 2)}{end}").exists() for end in ("", ".parts"))
    with pytest.raises(UsageError, match="is of a run on 2 devices"):
        run_shards(["cpu"] * 3, [str(source)], str(out), "resume", options)
    with pytest.raises(UsageError, match="holds rows of an interrupted run"):
        run_shards(["cpu"] * 2, [str(source)], str(out), "new", options)
    monkeypatch.undo()
    run_shards(["cpu"] * 2, [str(source)], str(out), "resume", options)
    assert len(ScoreTable.read(out)) == 1200 and ScoreTable.read(out).ok.all()
    assert not list(tmp_path.glob("*.shard-*"))


def test_what_a_process_cannot_do_is_said_once(bundle: Path, folder: Path, tmp_path: Path) -> None:
    options = {"model": str(bundle), "precision": "fp32", "engine": "openvino"}
    with pytest.raises(UsageError, match="cuda:0: the openvino engine runs on the cpu"):
        run_shards(["cpu", "cuda:0"], [str(folder)], str(tmp_path / "s.h5"), "new", options)
    with pytest.raises(UsageError, match="standard input"):
        run_shards(["cpu", "cpu"], ["@-"], str(tmp_path / "t.h5"), "new", options)
