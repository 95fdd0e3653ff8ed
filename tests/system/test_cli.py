"""The command line as a user meets it: messages, exit statuses, and rows that survive an interrupt."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import crash
from command import COMMAND, many, run
from metaqap_fast.scores.durable import write_scores
from metaqap_fast.scores.table import ScoreTable

Cli = Callable[..., Any]


def test_score_and_everything_after(cli: Cli, bundle: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.h5"
    result = run("score", folder, "--model", bundle, "-o", out)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    for words in (
        "engine openvino",
        "precision",
        "10 scored, 3 failed (2 corrupt, 1 unsupported)",
        "worst:",
        "1 file skipped",
    ):
        assert words in result.stderr
    assert "libjpeg" not in result.stderr and "libpng" not in result.stderr
    assert len(ScoreTable.read(out)) == 13

    shown = cli("inspect", out)
    assert shown.exit_code == 0 and "13 rows, 10 scored" in shown.stdout and "bundle_digest" in shown.stdout
    assert "tiny" in cli("inspect", bundle).stdout

    assert cli("export", out, tmp_path / "s.csv").exit_code == 0
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 14
    again = cli("export", out, tmp_path / "s.csv")
    assert again.exit_code == 2 and "exists" in again.stderr

    labels = tmp_path / "labels.csv"
    labels.write_text("name,mos\n" + "".join(f"b/{i}.jpg,{i / 10}\n{i}.png,{i / 9}\n" for i in range(5)))
    evaluated = cli("evaluate", out, "--labels", labels, "--draws", 100, "--json")
    document = json.loads(evaluated.stdout)
    assert document["images"] == 10 and set(document["srocc"]) == {"value", "low", "high"}
    direct = cli("evaluate", folder, "--labels", labels, "--draws", 100, "--model", bundle)
    assert direct.exit_code == 0 and f"{document['srocc']['value']:.4f}" in direct.stdout


def test_what_cannot_be_evaluated_is_said(cli: Cli, tmp_path: Path) -> None:
    """Constant labels: null and a reason, no NaN and no warning of a library. Names do not act on a terminal."""
    out, csv = tmp_path / "s.h5", tmp_path / "labels.csv"
    attributes = {"members": ["a", "b"]}
    rows = [crash.row(b"%d.png" % i) for i in range(12)]
    write_scores(out, attributes, [ScoreTable.from_rows(rows, attributes)])
    csv.write_text("image,mos\n\x1b[31m.png,2\n" + "".join(f"{i}.png,3\n" for i in range(12)))
    arguments = ["evaluate", out, "--labels", csv, "--draws", 100]
    found = run(*arguments, "--json")
    document = json.loads(found.stdout, parse_constant=lambda name: pytest.fail(name))
    assert (found.returncode, found.stderr) == (0, "") and document["images"] >= 5
    assert document["srocc"] == {"value": None, "low": None, "high": None} and "labels" in document["reason"]
    text = cli(*arguments)
    assert (text.exit_code, text.stderr) == (0, "") and document["reason"] in text.stdout
    assert "SROCC          undefined" in text.stdout and "\\x1b[31m.png" in text.stdout


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
        (["score", "{folder}", "--engine", "native", "--device", "cuda:0"], 2, "cuda:0"),
        (["score", "{folder}", "--engine", "native"], 1, "the native engine does not run: "),
        (["score", "{folder}", "--batch-size", "0"], 2, "positive number"),
        (["score", "{folder}", "--resume", "--overwrite"], 2, "cannot be given together"),
        (["score", "{folder}", "-o", "{tmp}/no/s.h5"], 2, "does not exist"),
        (["score", "{folder}", "-o", "{tmp}"], 2, "is a folder"),
        (["score", "{folder}", "-o", "{folder}/0.png"], 2, "exists"),
        (["evaluate", "{tmp}/no.h5", "--labels", "{tmp}/no.csv"], 2, "no.csv"),
        (["export", "{folder}/0.png", "{tmp}/x.csv"], 1, "not a score file, for it is not HDF5"),
        (["inspect", "{folder}/0.png"], 1, "not a score file, for it is not HDF5"),
        (["inspect", "{folder}"], 1, "is not a model, which has a bundle.json"),
        (["select", "{folder}", "--worst", "1"], 2, "is a folder: name the score file that"),
        (
            ["score", "@{folder}/0.png", "-o", "{tmp}/s.h5"],
            2,
            "0.png is an image, not a list of images: leave out the @",
        ),
        (["select", "{tmp}/no.h5", "--below", "40"], 2, "40.0 is not in the range 0<=x<=1"),
        (["explain", "{folder}/0.png", "--map", "{tmp}/no/m.png"], 2, "no such folder: "),
        (
            ["explain", "{folder}/0.png", "{folder}/1.png", "--map", "m.png"],
            2,
            "the maps of several images go to a folder",
        ),
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


@pytest.mark.parametrize(
    "long", ["o" * 246, "o" * 250, "o" * 300, "o/" * 2500 + "o"], ids=["246", "250", "300", "path"]
)
@pytest.mark.parametrize(
    "arguments",
    [
        ["score", "{folder}", "-o", "{long}.h5"],
        ["score", "{folder}", "-o", "{long}.h5", "--resume"],
        ["score", "{folder}", "-o", "{long}.h5", "--device", "cpu,cpu"],
        ["score", "{long}.jpg"],
        ["score", "@{long}.txt"],
        ["score", "{folder}", "--model", "{long}"],
        ["score", "{folder}", "--profile", "{long}.json"],
        ["inspect", "{long}.h5"],
        ["evaluate", "{long}.h5", "--labels", "{labels}"],
        ["evaluate", "{long}", "--labels", "{labels}"],
        ["evaluate", "{folder}/0.png", "--labels", "{long}.csv"],
        ["export", "{long}.h5", "s.csv"],
        ["export", "{folder}/0.png", "{long}.csv"],
        ["bench", "report", "{long}"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_names_that_are_too_long_are_one_line(
    cli: Cli, bundle: Path, folder: Path, tmp_path: Path, arguments: list[str], long: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.csv").write_text("image,mos\na.png,1\n")
    arguments = [text.format(folder=folder, long=long, labels="labels.csv") for text in arguments]
    if arguments[0] == "score" and "--model" not in arguments:
        arguments += ["--model", str(bundle)]
    result = cli(*arguments)
    if result.exit_code:
        assert result.exit_code in (1, 2) and result.stderr.startswith("metaqap-fast: "), result.output
        assert len(result.stderr.splitlines()) == 1 and isinstance(result.exception, SystemExit)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.csv", "photos"]
    else:  # a name that is just short enough
        assert len(long) in (246, 250) and "--profile" in arguments


def test_an_empty_folder_is_said_to_be_empty(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = cli("score", tmp_path / "empty", "--model", bundle, "-o", tmp_path / "s.h5")
    assert result.exit_code == 2 and "no image found" in result.stderr


def test_unwritable_output(bundle: Path, folder: Path) -> None:
    result = run("score", folder, "--model", bundle, "-o", "/proc/s.h5")
    assert result.returncode == 1 and "cannot write" in result.stderr and "Traceback" not in result.stderr


SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
SECONDS_TO_LEAVE = 2.0
TRIES = 3


def by_day(one: signal.Signals, *more: object) -> list[Any]:
    """Every signal and its status; all but one at night. What each signal becomes is in test_signals.py."""
    return [
        pytest.param(*more, each, status, marks=[] if each == one else pytest.mark.nightly)
        for each, status in SIGNALS.items()
    ]


def leave(start: Callable[[], subprocess.Popen[str]], number: signal.Signals) -> tuple[int, str]:
    """Signal a run, which must be gone within two seconds; its exit status and what it said.

    The best of three tries counts: a busy machine only ever adds time, and what the program itself would wait
    for (a library, a thread, a process) it would wait for in each of them.
    """
    seconds = []
    for _ in range(TRIES):
        process = start()
        begin = time.monotonic()
        process.send_signal(number)
        try:
            _, errors = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            _, errors = process.communicate()
        seconds.append(time.monotonic() - begin)
        if seconds[-1] < SECONDS_TO_LEAVE:
            return process.returncode, errors
    raise AssertionError(f"{number.name}: {seconds} s")


@pytest.mark.full
@pytest.mark.parametrize(("number", "status"), by_day(signal.SIGINT))
def test_interrupt_commits_and_resume_completes(
    bundle: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    folder, out = many(tmp_path / "photos", 4000), tmp_path / "s.h5"
    arguments = ["score", str(folder), "--model", str(bundle), "-o", str(out), "--rows-per-part", "100"]

    def start() -> subprocess.Popen[str]:
        shutil.rmtree(f"{out}.parts", ignore_errors=True)
        process = subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True)
        while not list(tmp_path.glob("s.h5.parts/part-*.h5")):  # with 3,900 images to go
            assert process.poll() is None
            time.sleep(0.01)
        return process

    code, errors = leave(start, number)
    assert code == status and "--resume" in errors and "Traceback" not in errors
    assert not out.exists()

    refused = run(*arguments)
    assert refused.returncode == 2 and "--resume" in refused.stderr
    resumed = run(*arguments, "--resume", "--json")
    assert resumed.returncode == 0, resumed.stderr
    summary = json.loads(resumed.stdout)
    assert summary["resumed_rows"] >= 100 and summary["resumed_rows"] + summary["images"] == 4000
    assert len(ScoreTable.read(out)) == 4000


# The engine holds 1,500 images up for a minute, and the compiler holds the main thread: as large models do.
STUCK_ENGINE = """
import time
from metaqap_fast.engine.openvino_engine import OpenVINOEngine
real = OpenVINOEngine.predict
def predict(self, items):
    for i, item in enumerate(real(self, items)):
        if i == 1500:
            open({sign!r}, "w").close()
            time.sleep(60)
        yield item
OpenVINOEngine.predict = predict
"""
STUCK_COMPILER = """
import hashlib
from metaqap_fast.engine import openvino_engine as openvino
def merged(*_, **__):
    open({sign!r}, "w").close()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
openvino.merged = merged
"""


@pytest.mark.full
@pytest.mark.parametrize(
    ("stuck", "rows", "number", "status"),
    by_day(signal.SIGTERM, STUCK_ENGINE, 1500) + by_day(signal.SIGHUP, STUCK_COMPILER, 0),
    ids=[f"{what}-{number.name}" for what in ("engine", "compiler") for number in SIGNALS],
)
def test_interrupt_waits_for_no_library(
    bundle: Path, tmp_path: Path, number: signal.Signals, status: int, stuck: str, rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("METAQAP_FAST_CACHE", str(tmp_path / "cache"))  # where nothing is compiled yet
    folder, out, sign = many(tmp_path / "photos", 2000), tmp_path / "s.h5", tmp_path / "sign"
    heard = f"import signal; signal.signal({int(number)}, signal.SIG_DFL)"  # ignored, where tests run under nohup
    source = f"{heard}\n{stuck.format(sign=str(sign))}\nfrom metaqap_fast.cli import main; main()"
    command = [sys.executable, "-c", source, "score", str(folder), "--model", str(bundle), "-o", str(out)]

    def start() -> subprocess.Popen[str]:
        shutil.rmtree(f"{out}.parts", ignore_errors=True)
        sign.unlink(missing_ok=True)
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while not sign.exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.5)  # what was predicted before becomes rows
        return process

    code, errors = leave(start, number)
    assert code == status and "interrupted" in errors and "Traceback" not in errors
    parts = sorted(tmp_path.glob("s.h5.parts/part-*.h5"))
    assert sum(len(ScoreTable.read(part)) for part in parts) == rows


def test_a_run_under_nohup_outlives_its_terminal(bundle: Path, tmp_path: Path) -> None:
    folder, out = many(tmp_path / "photos", 1500), tmp_path / "s.h5"
    arguments = ["score", str(folder), "--model", str(bundle), "-o", str(out), "--rows-per-part", "100", "--quiet"]
    process = subprocess.Popen(["nohup", *COMMAND, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("s.h5.parts/part-*.h5")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 0 and len(ScoreTable.read(out)) == 1500


def test_ctrl_c_ends_other_commands_with_its_status() -> None:
    code = (
        "import os, signal\nfrom metaqap_fast.cli import main\nfrom metaqap_fast.review import describe\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored, where tests run in the background
        "describe.describe_bundle = lambda model: os.kill(os.getpid(), signal.SIGINT)\nmain()"
    )
    result = subprocess.run([sys.executable, "-c", code, "inspect", "default"], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr.strip()) == (130, "", "")


def test_signals_have_one_home() -> None:
    """Beside the processes that live for one job: the decoder, and those that benchmarks start."""
    root = Path(__file__).parents[2]
    homes = {
        "metaqap_fast/signals.py",
        "metaqap_fast/child.py",
        "metaqap_fast/decode/worker.py",
        "bench/job.py",
        "bench/gpu_steps.py",
    }
    sources = [path for name in ("metaqap_fast", "bench", "train") for path in (root / name).rglob("*.py")]
    found = {path for path in sources if re.search(r"\bos\._exit\(|\bsignal\.signal\(", path.read_text())}
    assert {str(path.relative_to(root)) for path in found} <= homes
