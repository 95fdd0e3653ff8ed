"""Exports hold the same rows."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from metaqap_fast.errors import Status, UsageError
from metaqap_fast.scores.export import export
from metaqap_fast.scores.table import ScoreTable


@pytest.fixture
def table() -> ScoreTable:
    return ScoreTable(
        [b"a, b.jpg", b"caf\xe9.jpg"],
        np.array([0.25, np.nan], np.float32),
        np.array([0.125, np.nan], np.float32),
        np.array([[0.5, 0.75], [np.nan, np.nan]], np.float32),
        np.array([Status.ok, Status.corrupt], np.uint8),
        ["", "broken, badly"],
        np.array([4, 0], np.uint32),
        np.array([3, 0], np.uint32),
        np.array([12, 13], np.uint64),
        {"members": ["m", "n"], "engine": "e"},
    )


def test_csv(table: ScoreTable, tmp_path: Path) -> None:
    export(table, tmp_path / "s.csv")
    with open(tmp_path / "s.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert first["path"] == "a, b.jpg" and float(first["score"]) == 0.25 and float(first["member_n"]) == 0.75
    assert second == {
        "path": "caf\\xe9.jpg", "score": "", "uncertainty": "", "status": "corrupt", "error": "broken, badly",
        "width": "0", "height": "0", "bytes": "13", "member_m": "", "member_n": "",
    }  # fmt: skip


def test_jsonl(table: ScoreTable, tmp_path: Path) -> None:
    export(table, tmp_path / "s.jsonl")
    first, second = map(json.loads, (tmp_path / "s.jsonl").read_text().splitlines())
    assert first["uncertainty"] == 0.125 and first["status"] == "ok" and second["score"] is None


def test_parquet(table: ScoreTable, tmp_path: Path) -> None:
    export(table, tmp_path / "s.parquet")
    read = pq.read_table(tmp_path / "s.parquet")
    assert read.column("score").to_pylist() == [0.25, None]
    assert json.loads(read.schema.metadata[b"engine"]) == "e"


def test_unknown_ending(table: ScoreTable, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.csv, \.jsonl, \.parquet"):
        export(table, tmp_path / "s.xlsx")
    assert not list(tmp_path.iterdir())
