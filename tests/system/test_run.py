"""What is counted of a run: totals, extremes, what was there already, and the sum over processes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import crash
from metaqap_fast import summary as summaries
from metaqap_fast.errors import MetaqapError, Status
from metaqap_fast.input import open_sources
from metaqap_fast.records import Row
from metaqap_fast.run import run
from metaqap_fast.scores.done import Done
from metaqap_fast.scores.table import ScoreTable
from metaqap_fast.scores.totals import EXTREMES
from metaqap_fast.summary import Summary


def row(key: bytes, score: float = math.nan) -> Row:
    status = Status.corrupt if math.isnan(score) else Status.ok
    return Row(key, score, 0.1, np.zeros(2, np.float32), status, "", 1, 1, 1)


def taken(scores: list[float]) -> Summary:
    summary = Summary("s.h5")
    for i, score in enumerate(scores):
        summary.take(row(b"%03d" % i, score))
    return summary


def test_counts() -> None:
    summary = taken([0.5, math.nan, 0.25, 0.75])
    assert (summary.images, summary.scored, summary.failed) == (4, 3, 1)
    assert summary.statuses == {"ok": 3, "corrupt": 1}
    assert summary.totals.worst == [(0.25, "002", "")] and summary.totals.best == [(0.75, "003", "")]


def test_what_is_told_as_json() -> None:
    summary = taken([0.50004, math.nan, 0.25, 0.75, 0.1])
    document = summary.as_dict()
    assert document.pop("seconds") == round(summary.seconds, 3)
    assert document.pop("images_per_second") == round(summary.rate, 2)
    assert document == {
        "output": "s.h5", "images": 5, "rows": 5, "scored": 4, "failed": {"corrupt": 1}, "left_out": {}, "reasons": {},
        "engine": None, "engine_version": None, "precision": None, "device": None, "model": None, "model_digest": None,
        "preprocessing": None, "resumed_rows": 0, "changed_rows": 0, "retried_rows": 0, "gone_rows": 0, "pruned": False,
        "run": {"scored": 4, "failed": 1},
        "first_failures": [{"path": "001", "status": "corrupt", "error": ""}],
        "percentiles": {
            "1": 0.1045, "5": 0.1225, "25": 0.2125, "50": 0.375, "75": 0.5625, "95": 0.7125, "99": 0.7425,
        },
        "worst": [{"path": "004", "score": 0.1, "reason": ""}, {"path": "002", "score": 0.25, "reason": ""}],
        "best": [{"path": "003", "score": 0.75, "reason": ""}, {"path": "000", "score": 0.5, "reason": ""}],
    }  # fmt: skip
    assert (summary.done, summary.passed, summary.left_out) == (0, 0, {}) and Summary().output == ""


@pytest.mark.parametrize(
    ("scores", "worst", "best"), [([], [], []), ([0.5], ["000"], []), ([0.5, 0.4], ["001"], ["000"])]
)
def test_few_images(scores: list[float], worst: list[str], best: list[str]) -> None:
    summary = taken(scores)
    assert [one.path for one in summary.totals.worst] == worst and [one.path for one in summary.totals.best] == best


@given(st.lists(st.floats(0, 1, width=32), max_size=40))
def test_extremes(scores: list[float]) -> None:
    summary, ordered = taken(scores), sorted(scores)
    each = min(EXTREMES, len(scores) // 2)
    assert [one.score for one in summary.totals.worst] == ordered[: max(each, min(1, len(scores)))]
    assert [one.score for one in summary.totals.best] == ordered[::-1][:each]
    if len(set(scores)) == len(scores):
        assert not {one.path for one in summary.totals.worst} & {one.path for one in summary.totals.best}


def test_names_that_are_not_utf8_are_shown() -> None:
    summary = Summary()
    summary.take(row(b"\xff.png", 0.5))
    assert summary.totals.worst == [(0.5, "\\xff.png", "")]


@given(st.lists(st.lists(st.floats(0, 1, width=32) | st.just(math.nan), max_size=12), min_size=1, max_size=4))
def test_processes_are_added_up(each: list[list[float]]) -> None:
    """As if one process had taken all rows; whatever is told travels as JSON, and again and again."""
    together, apart, number = Summary("s.h5"), [Summary() for _ in each], 0
    for summary, scores in zip(apart, each, strict=True):
        for score in scores:
            for one in (summary, together):
                one.take(row(b"%03d" % number, score))
            number += 1
    joined = Summary("s.h5")
    for _ in range(2):
        joined.join([json.loads(json.dumps(summary.told())) for summary in apart])
    without = ("seconds", "images_per_second")
    assert {k: v for k, v in joined.as_dict().items() if k not in without} == {
        k: v for k, v in together.as_dict().items() if k not in without
    }


def test_seconds_and_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(summaries.time, "monotonic", lambda: now[0])
    summary = Summary()
    assert (summary.seconds, summary.rate) == (0.0, 0.0)
    for _ in range(3):
        now[0] += 0.5
        summary.take(row(b"a", 0.5))
    now[0] += 7  # merging is no scoring
    assert (summary.seconds, summary.rate) == (1.5, 2.0)
    other = Summary()
    now[0] += 4
    other.join([summary.told()])
    assert (other.seconds, other.images) == (4.0, 3)


def test_what_is_there_already_is_passed_over(tmp_path: Path) -> None:
    folder = crash.images(tmp_path / "photos", 30)
    entries = list(open_sources([folder]))
    summary = Summary()
    done = Done([ScoreTable.from_rows([row(entry.key, 0.5) for entry in entries[5:15]], {"members": ["a", "b"]})])
    assert list(summary.missing(entries, done)) == entries[:5] + entries[15:]
    assert summary.passed == 10


def test_a_resumed_run_counts_what_is_in_the_file(tmp_path: Path) -> None:
    folder, out = crash.images(tmp_path / "photos", 30), tmp_path / "s.h5"
    first = run(crash.FakeScorer(), open_sources([folder]), out)  # type: ignore[arg-type]
    assert (first.done, first.passed, first.images) == (0, 0, 30)
    (folder / "0" / "new.jpg").touch()
    for name in ("a0.jpg", "a21.jpg"):
        (folder / "0" / name).unlink()
    (folder / "0" / "notes.txt").touch()
    seen: list[tuple[int, int]] = []
    second = run(
        crash.FakeScorer(), open_sources([folder]), out, "resume",  # type: ignore[arg-type]
        on_row=lambda summary: seen.append((summary.passed, summary.images)),
    )  # fmt: skip
    assert (second.done, second.passed, second.images, second.gone) == (30, 28, 1, 2)
    assert second.left_out == {"no image extension": 1}
    table, document = ScoreTable.read(out), second.as_dict()
    assert len(table) == 31 and seen[-1][1] == 1
    assert (document["rows"], document["resumed_rows"], document["gone_rows"]) == (31, 30, 2)
    assert (document["scored"], document["images"]) == (table.ok.sum(), 1)
    assert [found["score"] for found in document["worst"]] == [
        round(float(score), 4) for score in np.sort(table.score[table.ok])[:5]
    ]


class Failing(crash.FakeScorer):
    """Fails at its 25th row."""

    def stream(self, entries: Any, trace: Any = None) -> Any:
        for i, found in enumerate(super().stream(entries)):
            if i == 25:
                raise MetaqapError("the machine failed")
            yield found


def test_a_failure_commits_what_is_ready(tmp_path: Path) -> None:
    folder, out = crash.images(tmp_path / "photos", 30), tmp_path / "s.h5"
    told: list[BaseException] = []
    with pytest.raises(MetaqapError, match="the machine failed"):
        run(Failing(pause=0), open_sources([folder]), out, stopped=told.append)  # type: ignore[arg-type]
    assert len(crash.committed(out)) == 25 and [str(error) for error in told] == ["the machine failed"]
