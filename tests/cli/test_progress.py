"""What a person sees of a run, line by line."""

from __future__ import annotations

import io
import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from metaqap_fast.cli import progress
from metaqap_fast.cli.progress import Report
from metaqap_fast.errors import MetaqapError, Status
from metaqap_fast.records import Row
from metaqap_fast.summary import Summary

ABOUT = {
    "engine": "native", "reason": "no GPU [here]", "precision": "bf16", "device": "cpu: AMD", "model": "m:smile:",
    "members": 1, "view_size": 512,
}  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Bar:
    """Takes the place of rich's."""

    def __init__(self) -> None:
        self.updates: list[dict[str, Any]] = []
        self.stopped = 0
        self.terminal = Terminal()

    def update(self, task: int, **values: Any) -> None:
        assert task == 0
        self.updates.append(values)

    def stop(self) -> None:
        self.stopped += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream))  # pytest has the real one
    return stream


@pytest.fixture
def bar(monkeypatch: pytest.MonkeyPatch) -> Bar:
    made = Bar()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=made.terminal))
    monkeypatch.setattr(progress, "_bar", lambda console: made)
    return made


def taken(clock: list[float], ok: int = 3, corrupt: int = 0, **fields: Any) -> Summary:
    """A row a second."""
    summary = Summary("s.h5", **fields)
    for i in range(ok + corrupt):
        clock[0] += 1
        good = i < ok
        status, score = (Status.ok, (i + 1) / 8) if good else (Status.corrupt, math.nan)
        summary.take(Row(b"%d.png" % i, score, 0.1, np.zeros(1, np.float32), status, "", 1, 1, 1))
    return summary


def test_what_runs_is_said(stderr: io.StringIO) -> None:
    report = Report(lambda: None, Summary())
    report.started(ABOUT)
    report.started({**ABOUT, "device": "cpu: Intel"})
    report.started({**ABOUT, "members": 2})
    assert stderr.getvalue().splitlines() == [
        "engine native (no GPU [here]), precision bf16, device cpu: AMD",
        "model m:smile:: 1 member, views of 512 px",
        "engine native (no GPU [here]), precision bf16, device cpu: Intel",
        "engine native (no GPU [here]), precision bf16, device cpu: AMD",
        "model m:smile:: 2 members, views of 512 px",
    ]


def test_a_line_every_few_seconds(stderr: io.StringIO, clock: list[float]) -> None:
    total: list[int | None] = [None]
    report = Report(lambda: total[0], Summary())
    summary = taken(clock, 4, 1, passed=1200)
    clock[0] = 1004.9
    report.progress(summary)
    assert stderr.getvalue() == ""
    clock[0] = 1005.0
    report.progress(summary)
    total[0] = 2205
    clock[0] = 1009.9
    report.progress(summary)
    clock[0] = 1010.0
    report.progress(summary)
    assert stderr.getvalue().splitlines() == [
        "1,205 images, 1 failed, 1.0 images/s",
        "1,205 of 2,205 images, 1 failed, 1.0 images/s, 1000 s left",
    ]


def test_time_left_is_never_negative_nor_divided_by_nothing(stderr: io.StringIO, clock: list[float]) -> None:
    report = Report(lambda: 5, Summary())
    clock[0] += 5
    report.progress(Summary(passed=3))
    clock[0] += 5
    report.progress(taken(clock, 2, passed=3))
    assert stderr.getvalue().splitlines() == [
        "3 of 5 images, 0 failed, 0.0 images/s", "5 of 5 images, 0 failed, 1.0 images/s, 0 s left"
    ]  # fmt: skip


def test_a_bar_on_a_terminal(bar: Bar, clock: list[float]) -> None:
    total: list[int | None] = [None]
    with Report(lambda: total[0], Summary()) as report:
        report.progress(Summary())  # before it is there
        report.started(ABOUT)
        report.progress(taken(clock, 2))
        total[0] = 10
        report.progress(taken(clock, 2, 1, passed=4))
        total[0] = 1  # what was listed and is more now
        report.progress(taken(clock, 2))
        assert bar.stopped == 0
    assert bar.stopped == 1
    keys = ("completed", "total", "rate", "failed")
    assert [tuple(update[key] for key in keys) for update in bar.updates] == [
        (2, None, 1.0, ""), (7, 10, 1.0, "1 failed"), (2, 2, 1.0, "")
    ]  # fmt: skip
    text = bar.terminal.getvalue()
    assert "images/s" not in text and "native" in text


def test_the_bar_is_put_away_before_the_last_word(bar: Bar) -> None:
    report = Report(lambda: None, Summary("a [red]\x1b.h5"))
    report.started(ABOUT)
    report.interrupted(130)
    assert bar.stopped == 1
    text = bar.terminal.getvalue()
    assert text.endswith(
        "interrupted; nothing was scored yet. To go on, give the same command and --resume (output: a [red]\\x1b.h5)\n"
    )


def test_a_real_bar(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    stream = Terminal()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream))
    monkeypatch.setenv("TERM", "xterm")
    with Report(lambda: 12, Summary()) as report:
        report.started(ABOUT)
        report.progress(taken(clock, 2, 1))
    text = stream.getvalue()
    assert "scoring" in text and "3/12" in text and "1 failed" in text and "1.0 images/s" in text


@pytest.mark.parametrize("how", [{"quiet": True}, {"as_json": True}])
def test_silence(how: dict[str, bool], bar: Bar, clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Report(lambda: 3, taken(clock), **how) as report:
        report.started(ABOUT)
        clock[0] += 100
        report.progress(taken(clock))
        report.interrupted(130)
        report.finished(0)
        report.failed(MetaqapError("a full disk"))
    assert bar.terminal.getvalue() == "" and bar.updates == []
    said = capsys.readouterr().out
    if "quiet" in how:
        assert said == ""
        return
    first, second, third = map(json.loads, said.splitlines())
    assert [found["scored"] for found in (first, second, third)] == [3] * 3
    assert [found["exit_status"] for found in (first, second, third)] == [130, 0, 1]
    assert [found["interrupted"] for found in (first, second, third)] == [True, False, False]
    assert [found["error"] for found in (first, second, third)] == [None, None, "a full disk"]


@pytest.mark.parametrize(
    ("status", "ok", "text"),
    [
        (5, 0, "no image could be scored: 1 of 1 failed; 0.png: "),
        (3, 1, "more images failed than --strict or --max-failed allows: 1 of 2 failed; 1.png: "),
        (0, 1, ""),
    ],
)
def test_errors_only(stderr: io.StringIO, clock: list[float], status: int, ok: int, text: str) -> None:
    """An exit status without a word would leave a nightly job's reader with nothing."""
    Report(lambda: None, taken(clock, ok, 1), quiet=True).finished(status)
    assert stderr.getvalue().rstrip("\n") == text


def test_the_summary(stderr: io.StringIO, clock: list[float]) -> None:
    left_out = {"no image extension": 1234, "@eaDir": 1}
    summary = taken(clock, 5, 4, done=1206, changed=1200, retried=2, gone=3, left_out=left_out)
    Report(lambda: None, summary).finished(0)
    lines = [
        "5 scored, 4 failed (4 corrupt), in all",
        "this run: 9 images, 9.0 s, 1.0 images/s",
        "4 rows kept from an earlier run",
        "1,200 rows scored again: the file has changed",
        "2 rows scored again: it had failed",
        "3 rows kept of images that no longer exist (--prune removes them)",
        "1,234 files skipped: no image extension",
        "1 left out: @eaDir",
        "corrupt  5.png: ",
        "corrupt  6.png: ",
        "corrupt  7.png: ",
        "... and 1 more that failed: metaqap-fast select s.h5 --status failed --csv",
        "worst:",
        "  0.125  0.png",
        "  0.250  1.png",
        "best:",
        "  0.625  4.png",
        "  0.500  3.png",
        "written to s.h5",
    ]
    assert stderr.getvalue().splitlines() == lines
    summary.pruned = True
    Report(lambda: None, summary).finished(0)
    assert "1 row kept from an earlier run" in stderr.getvalue()
    assert "3 rows removed: the image is gone" in stderr.getvalue()


def test_the_summary_of_little(stderr: io.StringIO, clock: list[float]) -> None:
    for summary, status in ((taken(clock, 0), 0), (taken(clock, 1), 0), (taken(clock, 0, 1), 5)):
        Report(lambda: None, summary).finished(status)
    assert stderr.getvalue().splitlines() == [
        "0 scored, 0 failed, 0.0 s, 0.0 images/s", "written to s.h5",
        "1 scored, 0 failed, 1.0 s, 1.0 images/s", "worst:", "  0.125  0.png", "written to s.h5",
        "0 scored, 1 failed (1 corrupt), 1.0 s, 1.0 images/s", "corrupt  0.png: ", "no image could be scored",
        "written to s.h5",
    ]  # fmt: skip


def test_the_summary_of_a_run_that_found_nothing_new(stderr: io.StringIO, clock: list[float]) -> None:
    summary = taken(clock, 0, done=3)
    Report(lambda: None, summary).finished(0)
    assert stderr.getvalue().splitlines()[:3] == [
        "0 scored, 0 failed, in all", "this run: none new", "3 rows kept from an earlier run"
    ]  # fmt: skip


def test_names_are_shown_as_they_are(stderr: io.StringIO) -> None:
    """Neither as markup nor as an emoji, and not as what acts on a terminal."""
    summary = Summary("a:smile:[bold].h5")
    summary.take(Row(b"[red]:smile:\x1b.png", 0.5, 0.1, np.zeros(1, np.float32), Status.ok, "", 1, 1, 1))
    Report(lambda: None, summary).finished(0)
    assert "  0.500  [red]:smile:\\x1b.png\nwritten to a:smile:[bold].h5\n" in stderr.getvalue()


def test_rows_that_went_to_standard_output(stderr: io.StringIO) -> None:
    report = Report(lambda: None, Summary("-"))
    report.finished(0)
    report.interrupted(143)
    assert stderr.getvalue().splitlines() == [
        "0 scored, 0 failed, 0.0 s, 0.0 images/s", "interrupted; everything scored so far was written"
    ]  # fmt: skip


def test_an_error_puts_the_bar_away(bar: Bar) -> None:
    with pytest.raises(MetaqapError), Report(lambda: None, Summary()) as report:
        report.started(ABOUT)
        raise MetaqapError("x")
    assert bar.stopped == 1
