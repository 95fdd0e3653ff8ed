"""What a nightly job leans on: exit statuses, the summary, what is scored, where rows go."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

import quick
from command import COMMAND, many
from metaqap_fast.scores.table import ScoreTable
from quick import files, interrupted

Cli = Callable[..., Any]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[bytes]:
    monkeypatch.chdir(tmp_path)
    return quick.use(monkeypatch)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twenty images in two folders, two of them bad, and things that are none."""
    good = {f"x{i:02d}": str(i) for i in range(9)} | {f"raw__y{i:02d}": str(i) for i in range(9)}
    folder = files(tmp_path / "photos", **good, bad="bad", raw__bad="bad")
    (folder / ".git").mkdir()
    (folder / "@eaDir").mkdir()
    (folder / "notes.txt").touch()
    return folder


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ([], 0), (["--strict"], 3), (["--max-failed", "1"], 3), (["--max-failed", "2"], 0), (["--max-failed", "0"], 3),
        (["--max-failed", "9.9%"], 3), (["--max-failed", "10%"], 0), (["--max-failed", "10 %"], 0),
    ],
)  # fmt: skip
def test_how_many_may_fail(cli: Cli, asked: list[bytes], photos: Path, arguments: list[str], status: int) -> None:
    """Of the whole output: to go on with it changes nothing."""
    for more in ([], ["--resume"]):
        result = cli("score", photos, "--json", *arguments, *more)
        assert (result.exit_code, json.loads(result.stdout)["exit_status"]) == (status, status)
    assert len(ScoreTable.read("scores.h5")) == 20


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--max-failed", "x"], "neither a number of images nor a percentage"), (["--max-failed", "101%"], "neither"),
        (["--max-failed", "-1"], "neither"), (["--shard", "4/4"], "counted from 0, the last of 4 is 3/4"),
        (["--shard", "1"], "of four, the first is 0/4"), (["--shard", "0/0"], "counted from 0"),
        (["--strict", "--max-failed", "1"], "--strict and --max-failed cannot be given together"),
        (["--prune"], "--prune goes with --resume"), (["--moved"], "--moved goes with --resume"),
        (["--sample"], "--sample goes with --limit"), (["--limit", "0"], "--limit"), (["--threads", "0"], "--threads"),
        (["--resume", "--prune", "--limit", "3"], "--prune and --limit cannot"),
        (["--format", "csv"], "--format goes with -o -"), (["-o", "-", "--json"], "-o - and --json cannot"),
        (["-o", "-", "--resume"], "-o - and --resume"), (["-o", "-", "--shard", "0/2"], "-o - and --shard"),
        (["-o", "-", "--device", "cpu,cpu"], "-o - is for one device"), (["-o", "s.txt"], "cannot write s.txt: the"),
        (["-o", "scores"], "must end in .h5, .hdf5, .csv, .jsonl, .parquet"), (["-o", "s.h5.gz"], "must end in"),
        (["-o", "photo.jpg", "--overwrite"], "must end in"), (["--seed", "3"], "--seed goes with --sample"),
        (["--max-memory", "9999999999999TiB"], "'--max-memory': '9999999999999TiB' is not a size"),
        (["--max-seconds", "nan"], "'--max-seconds': 'nan' is not a number"),
    ],
)  # fmt: skip
def test_what_is_asked_for_wrongly(cli: Cli, asked: list[bytes], photos: Path, option: list[str], message: str) -> None:
    result = cli("score", photos, *option)
    assert result.exit_code == 2 and message in result.stderr and asked == []
    assert os.listdir() == ["photos"]


def test_a_run_in_which_nothing_could_be_scored(cli: Cli, asked: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("".join(f"missing{i}.jpg\n" for i in range(30)))
    for more in ([], ["--resume"]):
        result = cli("score", "@list.txt", *more)
        assert result.exit_code == 5 and "0 scored, 30 failed (30 unreadable)" in result.stderr
        assert "no image could be scored" in result.stderr
    folder = files(tmp_path / "photos", a="1")
    assert cli("score", folder, "-o", "t.h5").exit_code == 0
    (folder / "a.jpg").unlink()
    files(folder, b="bad")
    assert cli("score", folder, "-o", "t.h5", "--resume").exit_code == 0  # one bad image that is new is no failure
    files(folder, **dict.fromkeys("cdefghijkl", "bad"))
    assert cli("score", folder, "-o", "t.h5", "--resume").exit_code == 5  # of ten nothing could be
    assert cli("score", folder, "-o", "t.h5", "--resume").exit_code == 0


def test_a_folder_that_is_gone_is_not_another_one(cli: Cli, asked: list[bytes], tmp_path: Path) -> None:
    """Its rows would be kept beside those of the same images under other names."""
    folder = files(tmp_path / "photos", a="1", b="2")
    assert cli("score", folder, "-o", "t.h5").exit_code == 0
    folder.rename(tmp_path / "renamed")
    result = cli("score", "renamed", "-o", "t.h5", "--resume")
    assert result.exit_code == 2 and "which is not there any more. If it was moved, give --moved" in result.stderr
    result = cli("score", "renamed", "-o", "t.h5", "--resume", "--moved")
    assert result.exit_code == 0 and "2 rows kept from an earlier run" in result.stderr
    assert len(ScoreTable.read("t.h5")) == 2


def test_the_summary(cli: Cli, asked: list[bytes], photos: Path) -> None:
    found = json.loads(cli("score", photos, "--json").stdout)
    expected = {
        "exit_status": 0, "interrupted": False, "error": None, "output": "scores.h5", "engine": "quick",
        "engine_version": "1", "precision": "fp32", "device": "cpu", "model": "toy", "model_digest": "d1",
        "preprocessing": "views=fit, view size 8", "images": 20, "rows": 20, "scored": 18, "failed": {"corrupt": 2},
        "run": {"scored": 18, "failed": 2},
        "left_out": {".git": 1, "@eaDir": 1, "no image extension": 1},
        "first_failures": [
            {"path": name, "status": "corrupt", "error": "bad bytes"} for name in ("bad.jpg", "raw/bad.jpg")
        ],
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    table = ScoreTable.read("scores.h5")
    for percent, value in found["percentiles"].items():
        assert value == pytest.approx(np.percentile(table.score[table.ok], float(percent)), abs=1.5e-4)


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["raw"], 10), (["raw/"], 10), (["*.jpg"], 0), (["bad.*"], 18), (["raw/bad.jpg"], 19), (["raw/*"], 10),
        (["/raw/y0[0-4]*"], 15), (["y0?.jpg", "x0?.jpg"], 2), (["aw"], 20), (["x"], 20), (["RAW"], 20),
    ],
)  # fmt: skip
def test_exclude(cli: Cli, asked: list[bytes], photos: Path, patterns: list[str], left: int) -> None:
    result = cli("score", photos, *(text for pattern in patterns for text in ("--exclude", pattern)), "--json")
    assert len(asked) == left
    if left:
        assert json.loads(result.stdout)["left_out"].get("excluded", 0) == 20 - left
    else:
        assert result.exit_code == 2 and "no image found" in result.stderr


def test_limit(cli: Cli, asked: list[bytes], photos: Path) -> None:
    cli("score", photos, "--limit", 3)
    assert asked == [b"bad.jpg", b"raw/bad.jpg", b"raw/y00.jpg"]
    cli("score", photos, "--limit", 5, "--resume")
    assert asked[3:] == [b"raw/y01.jpg", b"raw/y02.jpg"]
    samples = []
    for seed in (0, 0, 1):
        asked.clear()
        cli("score", photos, "--limit", 8, "--sample", "--seed", seed, "--overwrite")
        samples.append([*asked])
    first, again, other = samples
    assert first == again != other and len(set(first)) == 8 and other == ScoreTable.read("scores.h5").keys
    files(photos, zz="new")
    asked.clear()
    cli("score", photos, "--limit", 8, "--sample", "--overwrite")
    assert len({*asked} & {*first}) >= 7  # one more image changes one at most


def test_dry_run(cli: Cli, asked: list[bytes], photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("score", photos, "--limit", 6)
    (photos / "bad.jpg").unlink()
    (photos / "raw" / "y00.jpg").write_text("another")
    (photos / "z.png").touch()
    monkeypatch.setattr("metaqap_fast.scorer.Scorer", lambda **_: pytest.fail("a model was compiled"))
    before, written = Path("scores.h5").read_bytes(), os.stat("scores.h5").st_mtime_ns
    found = json.loads(cli("score", photos, "--dry-run", "--json", "--resume").stdout)
    assert found["kinds"] == {"jpg": 19, "png": 1} and found["left_out"]["@eaDir"] == 1
    counts = ("images", "to_score", "changed", "done", "gone")
    assert [found[name] for name in counts] == [20, 16, 1, 4, 1]
    assert found["first"][:2] == ["raw/y00.jpg", "raw/y04.jpg"] and len(found["first"]) == 10
    text = cli("score", photos, "--dry-run", "--resume", "--retry-failed").stdout
    assert "20 images found: 19 jpg, 1 png\n" in text and "  1 left out: @eaDir\n" in text
    assert "17 would be scored (1 changed since, 1 failed before)\n" in text and "  raw/bad.jpg\n" in text
    assert "3 rows kept from an earlier run\n1 row of images that no longer exist\n" in text
    refused = cli("score", photos, "--dry-run")
    assert refused.exit_code == 2 and "exists" in refused.stderr  # as the run itself would be
    assert "20 would be scored" in refused.stdout
    assert cli("score", photos, "--dry-run", "-o", "-").exit_code == 0
    assert Path("scores.h5").read_bytes() == before and os.stat("scores.h5").st_mtime_ns == written
    assert sorted(os.listdir()) == ["photos", "scores.h5"]


def test_threads(cli: Cli, asked: list[bytes], photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many CPUs, of those that may be used: whoever counts them starts as many threads."""
    given: list[set[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3, 5, 7})
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, cpus: given.append({process, *cpus}))
    for count, cpus in ((1, 1), (3, 3), (99, 4)):
        cli("score", photos, "--threads", count, "--overwrite")
        assert 0 in given[-1] and given[-1] - {0} <= {2, 3, 5, 7} and len(given[-1]) == cpus + 1


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    text = path.read_bytes().decode()
    return (
        list(csv.DictReader(io.StringIO(text))) if path.suffix == ".csv" else list(map(json.loads, text.splitlines()))
    )


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_other_outputs(cli: Cli, asked: list[bytes], photos: Path, ending: str) -> None:
    """As a score file that is exported; resumable until they are finished, and then not, which is said."""
    assert cli("score", photos, "-o", f"s.{ending}").exit_code == 0
    cli("score", photos, "-o", "s.h5")
    cli("export", "s.h5", f"t.{ending}")
    assert read(Path(f"s.{ending}")) == read(Path(f"t.{ending}")) and sorted(os.listdir()) == sorted(
        ["photos", "s.h5", f"s.{ending}", f"t.{ending}"]
    )
    result = cli("score", photos, "-o", f"s.{ending}", "--resume")
    assert result.exit_code == 2 and "is finished, and only a score file (.h5) can be added to" in result.stderr
    shutil.copytree(photos, "more")
    asked.clear()
    interrupted(Path("more"), Path(f"u.{ending}"), 7)
    assert cli("score", "more", "-o", f"u.{ending}", "--resume").exit_code == 0
    assert len(asked) == 20 and read(Path(f"u.{ending}")) == read(Path(f"t.{ending}"))


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_rows_to_standard_output(cli: Cli, asked: list[bytes], photos: Path, form: str) -> None:
    result = cli("score", photos, "-o", "-", *(["--format", form] if form == "jsonl" else []))
    assert result.exit_code == 0 and "18 scored, 2 failed" in result.stderr and "written to" not in result.stderr
    assert os.listdir() == ["photos"]
    cli("score", photos, "-o", f"s.{form}")
    assert result.stdout_bytes == Path(f"s.{form}").read_bytes()


@pytest.mark.full
def test_rows_to_standard_output_come_as_they_are_ready(bundle: Path, tmp_path: Path) -> None:
    """A reader that has seen enough ends the run."""
    folder = many(tmp_path / "photos", 3000)
    command = [*COMMAND, "score", str(folder), "--model", str(bundle), "-o", "-", "--format", "jsonl", "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    assert first["path"] == "0000.png" and 0 <= first["score"] <= 1 and process.poll() is None
    process.stdout.close()
    assert process.wait(60) == 1 and process.stderr is not None
    assert process.stderr.read() == b"metaqap-fast: cannot write to standard output: Broken pipe\n"
    assert os.listdir(tmp_path) == ["photos"]


@pytest.mark.full
@pytest.mark.parametrize("limit", [["--max-memory", "1000"], ["--max-seconds", "0.0001"]])
def test_limits_that_no_image_keeps(cli: Cli, bundle: Path, tmp_path: Path, limit: list[str], photo: Any) -> None:
    """They are too large, none is corrupt; what was decoded before anyone looked at the clock is scored."""
    (tmp_path / "photos").mkdir()
    photo.resize((2000, 2000)).save(tmp_path / "photos" / "a.jpg")
    photo.resize((2000, 2001)).save(tmp_path / "photos" / "b.jpg")
    result = cli("score", tmp_path / "photos", "--model", bundle, "-o", tmp_path / "s.h5", *limit, "--json")
    failed = json.loads(result.stdout)["failed"]
    assert set(failed) <= {"too_large"} and result.exit_code in ((5,) if "--max-memory" in limit else (0, 5))


@pytest.mark.full
def test_the_summary_of_an_interrupted_run(bundle: Path, tmp_path: Path) -> None:
    folder, out = many(tmp_path / "photos", 4000), tmp_path / "s.h5"
    command = [
        *COMMAND,
        "score",
        str(folder),
        "--model",
        str(bundle),
        "-o",
        str(out),
        "--json",
        "--rows-per-part",
        "50",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("s.h5.parts/part-*.h5")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said, errors = process.communicate(timeout=60)
    found = json.loads(said)
    assert process.returncode == found["exit_status"] == 143 and found["interrupted"] and errors == ""
    rows = sum(len(h5py.File(part)["scores/status"]) for part in tmp_path.glob("s.h5.parts/part-*.h5"))
    assert found["images"] == found["rows"] == found["scored"] == rows >= 50
    assert (
        found["precision"]
        and found["model"] == "tiny"
        and len(found["model_digest"]) == 64
        and found["percentiles"]["50"]
    )


def test_the_summary_of_a_run_that_failed(
    cli: Cli, asked: list[bytes], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = quick.Quick.stream

    def stream(self: Any, entries: Any, trace: Any = None) -> Any:
        from metaqap_fast.errors import MetaqapError

        for number, row in enumerate(original(self, entries)):
            if number == 7:
                raise MetaqapError("the machine failed")
            yield row

    monkeypatch.setattr(quick.Quick, "stream", stream)
    result = cli("score", photos, "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["exit_status"], found["error"], found["rows"]) == (1, 1, "the machine failed", 7)
    assert result.stderr == "metaqap-fast: the machine failed\n"
