"""What is said of many rows is what all of them at once would give."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaqap_fast.errors import Status
from metaqap_fast.records import Past, Row, key_order
from metaqap_fast.scores.done import Done
from metaqap_fast.scores.table import ScoreTable
from metaqap_fast.scores.totals import EXTREMES, FAILURES, Totals
from rows import a_row

ABOUT = {"members": ["a", "b"], "reasons": ["noise", "low contrast"]}
REASONS = ("noise", "low contrast", "")
SCORES = st.lists(st.floats(0, 1, width=32) | st.just(math.nan), max_size=60)


def rows_of(scores: list[float]) -> list[Row]:
    """In the order of their keys, some of which lie in folders; NaN has failed."""
    keys = sorted((b"%d/%03d.jpg" % (i % 3, i) for i in range(len(scores))), key=key_order)
    return [
        replace(a_row(key, score), reason=REASONS[i % len(REASONS)])
        if score == score
        else a_row(key, status=Status.corrupt, error=f"why {key.decode()}")
        for i, (key, score) in enumerate(zip(keys, scores, strict=True))
    ]


def said(totals: Totals) -> dict[str, object]:
    found = totals.as_dict()
    return {**found, "statuses": {name: n for name, n in totals.statuses.items() if n}}


@given(SCORES)
def test_they_are_those_of_all_rows(scores: list[float]) -> None:
    totals, rows = Totals(), rows_of(scores)
    for row in rows:
        totals.take(row)
    good = np.array([score for score in scores if score == score])
    bad = [row for row in rows if row.status != Status.ok]
    assert (totals.rows, totals.scored, totals.failed) == (len(scores), len(good), len(bad))
    assert totals.failures == ({"corrupt": len(bad)} if bad else {})
    assert [image["path"] for image in totals.first_failures] == [row.key.decode() for row in bad[:FAILURES]]
    assert [image["error"] for image in totals.first_failures] == [row.error for row in bad[:FAILURES]]
    assert totals.reasons == Counter(row.reason for row in rows if row.reason)
    each = min(EXTREMES, len(good) // 2)
    assert [one.score for one in totals.best] == sorted(good.tolist(), reverse=True)[:each]
    for percent, value in totals.percentiles().items():
        expected = np.percentile(good, float(percent)) if len(good) else None
        assert value == (None if expected is None else pytest.approx(expected, abs=1.01e-4))


@given(SCORES, st.integers(1, 40))
def test_tables_count_as_their_rows_do(scores: list[float], piece: int) -> None:
    one, other, rows = Totals(), Totals(), rows_of(scores)
    for row in rows:
        one.take(row)
    table = ScoreTable.from_rows(rows, ABOUT)
    pieces = (table[start : start + piece] for start in range(0, len(rows), piece))
    assert sum(map(len, other.passing(pieces))) == len(rows)
    a, b = said(one), said(other)
    for name in ("worst", "best"):  # of equal scores another image may be named
        assert [image["score"] for image in a.pop(name)] == [image["score"] for image in b.pop(name)]  # type: ignore[attr-defined]
    assert a == b


@given(st.lists(SCORES, min_size=1, max_size=4))
def test_those_of_several_processes_are_added(each: list[list[float]]) -> None:
    """What they tell travels as JSON; none of the parts is changed by it."""
    rows = rows_of([score for scores in each for score in scores])
    whole, parts, taken = Totals(), [], iter(rows)
    for scores in each:
        parts.append(Totals())
        for _, row in zip(scores, taken, strict=False):
            parts[-1].take(row)
            whole.take(row)
    whole = Totals().plus([whole.told()])
    told = [json.loads(json.dumps(part.told())) for part in parts]
    before = json.dumps(parts[0].told())
    assert said(parts[0].plus(told[1:])) == said(whole) and json.dumps(parts[0].told()) == before


def test_a_row_that_is_replaced_counts_no_more() -> None:
    totals, rows = Totals(), rows_of([0.1, 0.2, math.nan, 0.4, 0.5])
    for row in rows:
        totals.take(row)
    assert totals.reasons == {"noise": 2, "low contrast": 2}
    done = Done([ScoreTable.from_rows(rows, ABOUT)])
    totals.forget(done.past(rows[0].key))
    totals.forget(done.past(rows[2].key))
    totals.forget(Past(*json.loads(json.dumps(done.past(rows[1].key)))))  # as another process tells it
    totals.take(rows[1])
    assert totals.reasons == {"noise": 1, "low contrast": 2}
    assert totals.statuses == Counter(ok=3, corrupt=0) and totals.failures == {} and totals.first_failures == []
    assert [one.score for one in totals.worst] == [0.2] and totals.percentiles()["1"] == pytest.approx(0.204, abs=1e-4)


def test_as_many_as_the_documents_say() -> None:
    """docs/jobs.md, which names the fields of a run's summary; also with a table longer than what it keeps."""
    of_rows, of_tables = Totals(), Totals()
    rows = rows_of([i / 100 for i in range(40)] + [math.nan] * 20)
    for row in rows:
        of_rows.take(row)
    of_tables.take_table(ScoreTable.from_rows(rows, ABOUT))
    for totals in (of_rows, of_tables):
        assert [one.score for one in totals.worst] == pytest.approx([0, 0.01, 0.02, 0.03, 0.04])
        assert [one.score for one in totals.best] == pytest.approx([0.39, 0.38, 0.37, 0.36, 0.35])
        assert len(totals.first_failures) == 10
        assert list(totals.percentiles()) == ["1", "5", "25", "50", "75", "95", "99"]
        assert totals.percentiles()["50"] == pytest.approx(0.195, abs=1e-4)
    few = Totals()
    few.take(rows[0])
    assert len(few.worst) == 1 and few.best == []  # an image is not both


def test_a_score_outside_0_and_1_counts_as_the_nearest() -> None:
    """A file from elsewhere may hold one."""
    rows = rows_of([-0.5, 0.25, 1.5])
    of_rows, of_tables = Totals(), Totals()
    for row in rows:
        of_rows.take(row)
    of_tables.take_table(ScoreTable.from_rows(rows, ABOUT))
    for totals in (of_rows, of_tables):
        found = totals.percentiles()
        assert (found["1"], found["50"], found["99"]) == pytest.approx((0.005, 0.25, 0.985), abs=1e-4)
        assert totals.worst == [(-0.5, rows[0].key.decode(), "noise")]


@pytest.mark.parametrize("seed", range(3))
def test_first_failures_are_those_of_the_order_in_whatever_order_they_come(seed: int) -> None:
    rows, totals = rows_of([math.nan] * 30), Totals()
    for i in np.random.default_rng(seed).permutation(30).tolist():
        totals.take(rows[i])
    assert [image["path"] for image in totals.first_failures] == [row.key.decode() for row in rows[:FAILURES]]


@pytest.mark.parametrize("seed", range(3))
def test_the_extremes_of_a_long_table(seed: int) -> None:
    """Which is only partly sorted for it."""
    scores = np.random.default_rng(seed).permutation(3000) / 3000
    totals = Totals()
    totals.take_table(ScoreTable.from_rows(rows_of(scores.tolist()), ABOUT))
    assert [one.score for one in totals.worst] == pytest.approx([i / 3000 for i in range(5)])
    assert [one.score for one in totals.best] == pytest.approx([i / 3000 for i in range(2999, 2994, -1)])


def test_keys_of_any_bytes() -> None:
    totals = Totals()
    totals.take(a_row(b"\xff.png", 0.5))
    totals.take(a_row(b"\xfe\0.png", status=Status.unreadable, error="no"))
    told = json.loads(json.dumps(totals.told()))
    for found in (totals, Totals().plus([told])):
        assert found.worst == [(0.5, "\\xff.png", "")] and found.first_failures[0]["path"] == "\\xfe\\x00.png"
