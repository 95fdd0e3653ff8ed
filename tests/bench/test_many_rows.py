"""The figures of many rows, with few: every command does its work, and what is measured is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from metaqap_fast.bench import many_rows
from metaqap_fast.input.files import File
from metaqap_fast.scale.share import Share
from metaqap_fast.scores.table import ScoreTable


def test_rows_are_in_the_shares_that_runs_would_give_them(tmp_path: Path) -> None:
    class Toy:
        sources = roots = ("toy",)
        root, left_out = "", {}

        def __iter__(self):
            return (File(many_rows.key_of(i), b"") for i in range(500))

    parts = many_rows.make(tmp_path, 500)
    for index, part in enumerate(parts):
        keys = {entry.key for entry in Share(Toy(), index, many_rows.SHARDS)}  # type: ignore[arg-type]
        assert set(ScoreTable.read(part).keys) == keys and keys


@pytest.mark.nightly
def test_every_command_is_measured(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "metaqap_fast.bench.many_rows", "--rows", "600", "--work", tmp_path]
    subprocess.run([*command, "-o", tmp_path / "rows.json"], check=True, capture_output=True, timeout=120)
    found = json.loads((tmp_path / "rows.json").read_text())
    assert found["rows"] == 600 and found["labels"] == 600 and len(found["commands"]) == 10
    for each in found["commands"].values():
        assert each["cpu_seconds"] > 0 and 30 < each["peak_mb"] < many_rows.LIMIT_MB


def test_a_command_that_fails_is_no_figure(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ended with status"):
        many_rows.measured(code="raise SystemExit(3)")
