"""The stages' trace: valid for Chrome's viewers, every stage in it, and overlap visible."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metaqap_fast import trace as traces
from metaqap_fast.trace import Trace


def test_spans_time_the_producer_and_not_its_consumer(tmp_path: Path) -> None:
    def produce() -> Iterator[int]:
        for i in range(2):
            time.sleep(0.02)
            yield i

    trace = Trace(tmp_path / "t.json")
    for _ in trace.steps("decode", produce()):
        time.sleep(0.1)
    with pytest.raises(ZeroDivisionError), trace.span("write"):
        raise ZeroDivisionError
    trace.write()
    events = [event for event in json.loads((tmp_path / "t.json").read_text())["traceEvents"] if event["ph"] == "X"]
    assert [event["name"] for event in events] == ["decode"] * 3 + ["write"]
    assert all(15_000 < event["dur"] < 90_000 for event in events[:2]) and events[1]["ts"] - events[0]["ts"] > 110_000


def test_a_long_run_does_not_fill_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MAX_EVENTS", 3)
    trace = Trace(tmp_path / "t.json")
    assert list(trace.steps("read", range(10))) == list(range(10))
    trace.write()
    document = json.loads((tmp_path / "t.json").read_text())
    assert document["otherData"]["dropped"] == 8 and len(document["traceEvents"]) == 4


def test_profile_option(cli: Any, bundle: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "trace.json"
    result = cli("score", folder, "--model", bundle, "-o", tmp_path / "s.h5", "--quiet", "--profile", out)
    assert result.exit_code == 0, result.output
    events = json.loads(out.read_text())["traceEvents"]
    names = {event["args"]["name"] for event in events if event["ph"] == "M"}
    assert names == {"read", "decode", "infer", "write", "merge"}
    counts = {name: sum(event["ph"] == "X" and event["name"] == name for event in events) for name in names}
    assert counts["write"] == 13 and counts["decode"] == 14 and counts["infer"] == 14  # an end each
    for place in (tmp_path / "no" / "t.json", folder, tmp_path / ("t" * 300)):  # said before anything is scored
        refused = cli("score", folder, "-o", tmp_path / "t.h5", "--profile", place)
        assert refused.exit_code == 1 and len(refused.stderr.splitlines()) == 1 and not (tmp_path / "t.h5").exists()
