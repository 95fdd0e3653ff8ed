"""Rows written as they come: at once after a while, together when there are many, and nothing twice."""

from __future__ import annotations

import io

import pytest

from metaqap_fast.scores import lines
from metaqap_fast.scores.lines import Lines
from rows import ATTRIBUTES, rows


class Clock:
    """Stands in for the time of a module."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(lines, "time", clock := Clock())
    return clock


def test_rows_are_written_after_a_second_or_when_there_are_many(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "ROWS", 3)
    file = io.BytesIO()
    out, written = Lines(file, ".csv", ATTRIBUTES), []
    for row, seconds in zip(rows(*range(9)), (0, 0.5, 0.5, 0.25, 0.75, 0.1, 0.2, 1.5, 0), strict=True):
        clock.now += seconds
        out.add(row)
        written.append(max(0, file.getvalue().count(b"\n") - 1))
    # By number at the third; a second is over only when more than that has passed: at the sixth, and at the eighth.
    assert written == [0, 0, 3, 3, 3, 6, 6, 8, 8]
    out.commit()
    out.commit()
    found = file.getvalue().decode().splitlines()
    assert len(found) == 10 and found[0].startswith("path,score") and found.count(found[0]) == 1
    assert [line.split(",")[0] for line in found[1:]] == [f"{i:03d}.jpg" for i in range(9)]


@pytest.mark.parametrize(("form", "header"), [(".csv", 1), (".jsonl", 0)])
def test_without_rows_there_is_a_header_at_most(form: str, header: int, clock: Clock) -> None:
    file = io.BytesIO()
    out = Lines(file, form, ATTRIBUTES)
    out.commit()
    out.commit()
    assert file.getvalue().count(b"\n") == header
