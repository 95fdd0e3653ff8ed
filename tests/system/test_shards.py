"""Several devices: here CPU processes, which must give the file that one process gives, whatever happens to them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from command import COMMAND, many, run
from metaqap_fast import UsageError
from metaqap_fast.errors import MetaqapError
from metaqap_fast.input import open_sources
from metaqap_fast.run import Summary
from metaqap_fast.scale import shards
from metaqap_fast.scale.shards import cores, run_shards
from metaqap_fast.scores.table import ScoreTable


def same(a: Path, b: Path) -> None:
    one, two = ScoreTable.read(a), ScoreTable.read(b)
    assert one.keys == two.keys and one.error == two.error
    for name in ("score", "uncertainty", "members", "status", "width", "height", "nbytes"):
        assert getattr(one, name).tobytes() == getattr(two, name).tobytes(), name
    for name in set(one.attributes) - {"created"}:
        assert np.array_equal(one.attributes[name], two.attributes[name]), name


def committed(out: Path) -> list[bytes]:
    return [key for part in out.with_name(f"{out.name}.parts").glob("part-*.h5") for key in ScoreTable.read(part).keys]


@pytest.fixture
def options(bundle: Path) -> dict[str, Any]:
    return {"model": str(bundle), "precision": "fp32"}


@pytest.fixture
def pids(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes that are started for devices."""
    started: list[Any] = []
    real = subprocess.Popen
    monkeypatch.setattr(shards.subprocess, "Popen", lambda *a, **k: started.append(real(*a, **k)) or started[-1])
    return started


def test_the_cores_are_dealt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each of a GPU's processes starts a decoding thread on every core."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3, 8, 9, 10, 11})
    assert [cores(i, 3) for i in range(3)] == [[0, 1], [2, 3], [8, 9]]
    assert [cores(i, 10) for i in (0, 9)] == [[0], [1]]


def test_the_status_of_a_process_is_that_of_the_run(
    options: dict[str, Any], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = (
        "from metaqap_fast.gpu_errors import DecoderDisagrees\nimport metaqap_fast.scorer as s\n"
        "def stream(self, entries, trace=None):\n    yield from ()\n    raise DecoderDisagrees('wrong pixels')\n"
        "s.Scorer.stream = stream"
    )
    started_with(wrong, monkeypatch)
    with pytest.raises(MetaqapError, match="cpu: wrong pixels") as caught:
        run_shards(["cpu", "cpu"], open_sources([folder]), tmp_path / "s.h5", "new", options)
    assert caught.value.exit_code == 4


def test_two_processes_give_the_file_of_one(bundle: Path, folder: Path, tmp_path: Path) -> None:
    arguments = ["--model", bundle, "--precision", "fp32"]
    one = run("score", folder, "-o", tmp_path / "one.h5", "--device", "cpu", "--strict", *arguments)
    two = run("score", folder, "-o", tmp_path / "two.h5", "--device", "cpu,cpu", "--strict", *arguments)
    assert one.returncode == two.returncode == 3, two.stderr
    same(tmp_path / "one.h5", tmp_path / "two.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.h5", "photos", "two.h5"]
    # The same words too, but for times and the output's name; each process says what runs.
    # Progress too, which a slow machine has time for.
    changing = r"[\d.]+ s, [\d.]+ images/s|\w+\.h5|^[\d,]+ (of [\d,]+ )?images, .*\n"
    words = [re.sub(changing, "", result.stderr, flags=re.M).splitlines() for result in (one, two)]
    assert words[1] == [*words[0][:2], words[0][0], *words[0][2:]]
    assert "10 scored, 3 failed (2 corrupt, 1 unsupported), " in words[1][3] and words[1][4].startswith(
        "1 file skipped"
    )


@pytest.mark.parametrize(
    "devices", [*(pytest.param(["cpu"] * n, marks=pytest.mark.full) for n in (1, 2)), ["cpu"] * 3], ids=len
)
def test_resume_scores_what_is_new_on_any_number_of_devices(
    options: dict[str, Any], folder: Path, tmp_path: Path, devices: list[str]
) -> None:
    out = tmp_path / "s.h5"
    run_shards(["cpu", "cpu"], open_sources([folder]), out, "new", options)
    (folder / "0a.png").write_bytes((folder / "0.png").read_bytes())
    seen: list[dict[str, Any]] = []
    summary = run_shards(devices, open_sources([folder]), out, "resume", options, on_start=lambda a: seen.append({**a}))
    assert (summary.done, summary.passed, summary.images, summary.scored) == (13, 13, 1, 1)
    assert len(ScoreTable.read(out)) == 14 and [about["model"] for about in seen] == ["tiny"] * len(devices)
    again = run_shards(devices, open_sources([folder]), out, "resume", options, retry_failed=True)
    assert (again.done, again.retried, again.images, again.failed) == (14, 3, 3, 3) and len(ScoreTable.read(out)) == 14


WATCHES_LISTING = """
import os
real = os.scandir
def scandir(path="."):
    if {folder!r} in str(path):
        open({log!r}, "a").write(os.fsdecode(path) + "\\n")
    return real(path)
os.scandir = scandir
"""


@pytest.mark.parametrize("device", ["cpu", "cpu,cpu"])
def test_a_tree_is_listed_once(bundle: Path, folder: Path, tmp_path: Path, device: str) -> None:
    """By whatever process: each of a run's watches itself."""
    log = tmp_path / "log"
    watch = WATCHES_LISTING.format(folder=str(folder), log=str(log))
    code = (
        f"{watch}\nfrom metaqap_fast import child\ncommand = child.command\nwatch = {watch!r}\n"
        "child.command = lambda code, *more: command(watch + code, *more)\nfrom metaqap_fast.cli import main; main()"
    )
    arguments = ["score", folder, "--model", bundle, "-o", tmp_path / "s.h5", "--device", device]
    result = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert log.read_text().splitlines() == [str(folder), str(folder / "b")]


def test_rows_are_written_twice(options: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    """Once to a part by the process, once to the output by the parent: no file of a process's own is made."""
    out, seen = tmp_path / "s.h5", set()

    def look(_: Summary) -> None:
        seen.update(path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*.h5"))

    run_shards(["cpu", "cpu"], open_sources([folder]), out, "new", options, on_row=look, rows_per_part=2)
    assert seen <= {"s.h5.parts"} and len(ScoreTable.read(out)) == 13


def test_a_list_from_standard_input_is_shared_too(bundle: Path, folder: Path, tmp_path: Path) -> None:
    names = b"".join(os.fsencode(folder / f"{i}.png") + b"\n" for i in range(5))
    arguments = ["score", "@-", "-o", tmp_path / "s.h5", "--model", bundle, "--device", "cpu,cpu", "--json"]
    result = subprocess.run([*COMMAND, *map(str, arguments)], input=names, capture_output=True, timeout=120)
    assert result.returncode == 0 and json.loads(result.stdout)["scored"] == 5


def test_names_of_any_bytes_reach_the_processes(options: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    names = [b"\xff\xfe.png", "ä\n\x1b.png".encode(), b'\xed\xa0\x80 \\ ".png']
    for name in names:
        (folder / os.fsdecode(name)).write_bytes((folder / "0.png").read_bytes())
    summary = run_shards(["cpu", "cpu"], open_sources([folder]), tmp_path / "s.h5", "new", options)
    table = ScoreTable.read(tmp_path / "s.h5")
    assert summary.scored == 13 and set(names) < set(table.keys)
    assert all(table.ok[table.keys.index(name)] for name in names)


def test_a_killed_process_is_named_and_its_rows_are_kept(
    options: dict[str, Any], tmp_path: Path, pids: list[subprocess.Popen[bytes]]
) -> None:
    source, out = many(tmp_path / "many", 1200), tmp_path / "s.h5"

    def kill(summary: Summary) -> None:
        if committed(out) and pids[1].poll() is None:
            pids[1].kill()

    with pytest.raises(MetaqapError, match=r"the process on cpu ended with status -9 \(SIGKILL\).*--resume"):
        run_shards(["cpu", "cpu"], open_sources([source]), out, "new", options, kill, rows_per_part=20)
    assert all(process.poll() is not None for process in pids)
    kept = committed(out)
    assert len(kept) == len(set(kept)) >= 20 and not out.exists()
    with pytest.raises(UsageError, match="holds rows of an interrupted run"):
        run_shards(["cpu"] * 2, open_sources([source]), out, "new", options)
    (source / "0000a.png").write_bytes((source / "0000.png").read_bytes())  # what moves all others in the listing
    summary = run_shards(["cpu"] * 3, open_sources([source]), out, "resume", options)
    assert (summary.done, summary.images) == (len(kept), 1201 - len(kept))  # nothing twice
    assert len(ScoreTable.read(out)) == 1201 and ScoreTable.read(out).ok.all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many", "s.h5"]


# What stands in the way of a process's end: as a library's thread or a forked child has done.
HANGS_AT_EXIT = "from metaqap_fast import signals; import time; signals.leave = lambda status: time.sleep(600)"
LEAVES_ONE_BEHIND = (
    "import os, time\nif not os.fork():\n    time.sleep(20)\n    os._exit(0)"  # which holds the pipes open
)
BOTH = f"{HANGS_AT_EXIT}\n{LEAVES_ONE_BEHIND}"
DIES_SILENTLY = f"{LEAVES_ONE_BEHIND}\nos._exit(7)"


def started_with(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = shards.child.command
    monkeypatch.setattr(shards.child, "command", lambda main: command(f"{code}\n{main}"))
    monkeypatch.setattr(shards, "SECONDS_TO_LEAVE", 1.0)
    monkeypatch.setattr(shards, "SECONDS_TO_BE_HEARD", 1.0)


@pytest.mark.parametrize("code", [HANGS_AT_EXIT, LEAVES_ONE_BEHIND, BOTH], ids=["hangs", "leaves", "both"])
def test_a_process_that_does_not_end_does_not_keep_the_run(
    options: dict[str, Any], folder: Path, tmp_path: Path, code: str, pids: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    started_with(code, monkeypatch)
    start = time.monotonic()
    summary = run_shards(["cpu", "cpu"], open_sources([folder]), tmp_path / "s.h5", "new", options)
    assert summary.images == len(ScoreTable.read(tmp_path / "s.h5")) == 13
    assert time.monotonic() - start < 18 and all(process.poll() is not None for process in pids)


def test_a_process_that_dies_without_its_pipes_is_noticed(
    options: dict[str, Any], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started_with(DIES_SILENTLY, monkeypatch)
    start = time.monotonic()
    with pytest.raises(MetaqapError, match="ended with status 7"):
        run_shards(["cpu", "cpu"], open_sources([folder]), tmp_path / "s.h5", "new", options)
    assert time.monotonic() - start < 18 and sorted(p.name for p in tmp_path.iterdir()) == ["photos"]


def test_what_a_process_cannot_do_is_said_once(
    options: dict[str, Any], bundle: Path, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="cuda:0: the openvino engine runs on the cpu"):
        run_shards(
            ["cpu", "cuda:0"], open_sources([folder]), tmp_path / "s.h5", "new", {**options, "engine": "openvino"}
        )
    assert not (tmp_path / "s.h5.parts").exists()
    for device in ("cuda:0,cuda:1", "cuda:98,cuda:99", "cpu,cuda:98", "nonsense,cpu"):
        result = run("score", folder, "--model", bundle, "-o", tmp_path / "s.h5", "--device", device)
        assert result.returncode in (1, 2) and len(result.stderr.splitlines()) == 1, result.stderr
        assert result.stderr.startswith("metaqap-fast: ") and result.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


LATE = (  # it finds out long after the other one is ready
    "import time, metaqap_fast.engine.choice as c\nreal = c.MetaqapError\n"
    "c.MetaqapError = lambda message: time.sleep(2) or real(message)"
)
MIXED = (
    "import metaqap_fast.scorer as s\nreal = s.Scorer.describe\n"
    "s.Scorer.describe = lambda self: {**real(self), 'precision': str(__import__('os').getpid())}"
)


@pytest.mark.parametrize(
    ("code", "devices", "error", "words"),
    [
        (LATE, ["cpu", "cuda:98"], MetaqapError, "cuda:98: --device cuda:98 needs a GPU"),
        (MIXED, ["cpu", "cpu"], UsageError, "cpu and cpu would give different scores: precision"),
    ],
    ids=["one cannot start", "scores would differ"],
)
def test_nothing_is_introduced_or_written_unless_all_can_begin(
    options: dict[str, Any], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, devices: Any,
    error: Any, words: str,
) -> None:  # fmt: skip
    started_with(code, monkeypatch)
    told: list[Any] = []
    with pytest.raises(error, match=words):
        run_shards(devices, open_sources([folder]), tmp_path / "s.h5", "new", options, on_start=told.append)
    assert told == [] and sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


def test_an_error_of_the_listing_ends_the_run(options: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    class Broken:
        sources, roots, root, left_out = ("broken",), (), "", {}

        def __init__(self, error: Exception) -> None:
            self.error = error

        def __iter__(self) -> Any:
            yield from open_sources([folder])
            raise self.error

    for error in (UsageError("cannot list b"), RuntimeError("a bug")):
        with pytest.raises(type(error), match=str(error)):
            run_shards(["cpu", "cpu"], Broken(error), tmp_path / "s.h5", "overwrite", options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.nightly),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.nightly),
    ],
)
def test_an_interrupted_run_is_resumed_by_one_process(
    bundle: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    folder, out = many(tmp_path / "photos", 1500), tmp_path / "s.h5"
    arguments = ["score", str(folder), "--model", str(bundle), "-o", str(out), "--rows-per-part", "100"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*COMMAND, *arguments, "--json", "--device", "cpu,cpu"], **pipes)
    while not committed(out):
        assert process.poll() is None
        time.sleep(0.01)
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == json.loads(said)["exit_status"] == status and errors == ""
    assert not out.exists() and not psutil.wait_procs(below, timeout=20)[1]
    kept = committed(out)
    assert json.loads(said)["rows"] == len(kept)  # also what was committed at last
    resumed = run(*arguments, "--resume", "--json")
    summary = json.loads(resumed.stdout)
    assert resumed.returncode == 0 and summary["resumed_rows"] == len(kept) == len(set(kept)) >= 100
    assert summary["images"] == 1500 - len(kept) and len(ScoreTable.read(out)) == 1500


def test_a_killed_run_takes_its_processes_with_it(bundle: Path, tmp_path: Path) -> None:
    folder, out = many(tmp_path / "photos", 1500), tmp_path / "s.h5"
    arguments = ["score", str(folder), "--model", str(bundle), "-o", str(out), "--rows-per-part", "100", "--quiet"]
    process = subprocess.Popen([*COMMAND, *arguments, "--device", "cpu,cpu"])
    while not committed(out):
        assert process.poll() is None
        time.sleep(0.01)
    below = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait(20)
    assert len(below) >= 2 and not psutil.wait_procs(below, timeout=30)[1]
    kept = committed(out)
    assert len(kept) == len(set(kept))
    resumed = json.loads(run(*arguments[:-1], "--resume", "--json", "--device", "cpu,cpu").stdout)
    assert resumed["resumed_rows"] == len(kept) and resumed["images"] == 1500 - len(kept)


def test_modules_in_the_current_folder_are_only_files(bundle: Path, folder: Path, tmp_path: Path) -> None:
    for name in ("numpy", "json", "metaqap_fast", "queue"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')")
    script = tmp_path / "command.py"  # as an installed command starts: its own folder first on the path
    script.write_text("from metaqap_fast.cli import main; main()")
    arguments = ["score", ".", "--model", bundle, "-o", tmp_path / "s.h5", "--device", "cpu,cpu"]
    result = subprocess.run([sys.executable, script, *map(str, arguments)], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "owned").exists()
