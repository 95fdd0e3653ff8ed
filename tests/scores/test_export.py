"""Exports hold the same rows, whatever their number, and leave nothing half-written."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaqap_fast.errors import MetaqapError, Status, UsageError
from metaqap_fast.scores import export as exports
from metaqap_fast.scores.export import export
from metaqap_fast.scores.table import ScoreTable
from rows import a_row

FORMS = ("csv", "jsonl", "parquet")


@pytest.fixture
def table() -> ScoreTable:
    good = a_row("ä, b.jpg".encode(), 0.25, 0.1, members=(0.5, 0.7426247), width=4, height=3, nbytes=1 << 40)
    bad = a_row(b"caf\xe9.jpg", status=Status.corrupt, error="broken, \udcff badly", nbytes=13)
    return ScoreTable.from_rows([good, bad], {"members": ["m", "n"], "engine": "e"})


def read(path: Path) -> list[dict[str, object]]:
    if path.suffix == ".csv":
        with open(path, newline="") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_bytes().splitlines()]
    return pq.read_table(path).to_pylist()


def test_csv(table: ScoreTable, tmp_path: Path) -> None:
    assert export(table, tmp_path / "s.csv") == 2
    written = (tmp_path / "s.csv").read_bytes().decode()
    assert written.count("\r\n") == written.count("\n") == 3  # as RFC 4180 has it
    assert written.splitlines() == [
        "path,score,uncertainty,status,error,width,height,bytes,note,hash,member_m,member_n",
        '"ä, b.jpg",0.25,0.1,ok,,4,3,1099511627776,,0,0.5,0.7426247',
        'caf\\xe9.jpg,,,corrupt,"broken, \\xff badly",0,0,13,,0,,',
    ]


def test_jsonl(table: ScoreTable, tmp_path: Path) -> None:
    export(table, tmp_path / "s.jsonl")
    first, second = (tmp_path / "s.jsonl").read_text(encoding="utf-8").splitlines()
    assert first == (
        '{"path": "ä, b.jpg", "score": 0.25, "uncertainty": 0.1, "status": "ok", "error": "", "width": 4, '
        '"height": 3, "bytes": 1099511627776, "note": "", "hash": 0, "member_m": 0.5, "member_n": 0.7426247}'
    )
    assert json.loads(second)["score"] is None and json.loads(second)["member_n"] is None


def test_parquet(table: ScoreTable, tmp_path: Path) -> None:
    export(table, tmp_path / "s.parquet")
    found = pq.read_table(tmp_path / "s.parquet")
    assert found.schema == table.to_arrow().schema and found.column("score").to_pylist() == [0.25, None]
    assert found.column("path").to_pylist() == ["ä, b.jpg", "caf\\xe9.jpg"]
    assert json.loads(found.schema.metadata[b"engine"]) == "e"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [0, 1, 6, 7])
def test_a_file_is_exported_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, count: int) -> None:
    """The same bytes as the table gives, a few rows in memory at once, and one row group for them."""
    table = ScoreTable.from_rows([a_row(b"%d" % i, i / 10) for i in range(count)], {"members": ["m", "n"]})
    table.save(tmp_path / "s.h5")
    monkeypatch.setattr(exports, "ROWS", 3)
    asked: list[slice] = []
    original = exports.read_rows
    monkeypatch.setattr(exports, "read_rows", lambda file, rows: asked.append(rows) or original(file, rows))
    assert export(tmp_path / "s.h5", tmp_path / f"a.{form}") == count == export(table, tmp_path / f"b.{form}")
    assert read(tmp_path / f"a.{form}") == read(tmp_path / f"b.{form}")
    assert len(read(tmp_path / f"a.{form}")) == count
    assert asked == [slice(i, i + 3) for i in range(0, count + 1 if count != 7 else 7, 3)]
    if form == "csv":
        assert (tmp_path / "a.csv").read_text().startswith("path,score,uncertainty,status,error,width,height,bytes,")
    if form == "parquet" and count:
        assert pq.ParquetFile(tmp_path / "a.parquet").metadata.num_row_groups == -(-count // 3)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_numbers_have_the_digits_of_their_precision(value: float) -> None:
    (short,) = exports._shortest(np.array([value], np.float32))
    assert short is not None and np.float32(short) == np.float32(value)
    assert len(repr(short).partition("e")[0].strip("-0.").replace(".", "")) <= 9


def test_predictions_of_a_failed_image_are_not_given(tmp_path: Path) -> None:
    """Nor is a number that JSON has no word for."""
    odd = a_row(b"a", float("inf"), members=(0.5, float("nan")))
    table = ScoreTable.from_rows([odd, a_row(b"b")], {"members": ["m", "n"]})
    table.columns["status"][1] = Status.engine_error
    a, b = exports.records(table)
    assert (a["score"], a["uncertainty"], a["member_m"], a["member_n"]) == (None, 0.1, 0.5, None)
    assert (b["score"], b["uncertainty"], b["member_m"], b["member_n"]) == (None, None, None, None)
    assert np.isnan(table.to_pandas().score).all() and table.to_arrow().column("score").to_pylist() == [None, None]


@pytest.mark.parametrize("form", FORMS)
def test_a_write_that_fails_leaves_what_was_there(
    table: ScoreTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    out = tmp_path / f"s.{form}"
    out.write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", no_room)
        with pytest.raises(MetaqapError, match=rf"cannot write .*s\.{form}: No space left on device$"):
            export(table, out)
    assert out.read_text() == "old" and list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("form", FORMS)
def test_a_full_disk_is_one_line(table: ScoreTable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, form: str) -> None:
    monkeypatch.setattr("builtins.open", lambda *_: open_full())
    with pytest.raises(MetaqapError, match=r"cannot write .*: No space left on device$"):
        export(table, tmp_path / f"s.{form}")


def open_full(original: object = open) -> object:
    return original("/dev/full", "wb")  # type: ignore[operator]


@pytest.mark.parametrize("form", FORMS)
def test_a_target_that_cannot_be_written_is_one_line(table: ScoreTable, tmp_path: Path, form: str) -> None:
    """As on a file system that is mounted read-only, where removing what was never made fails as well."""
    table.save(tmp_path / "s.h5")
    code = (
        "import pathlib, sys\n"
        "def no(*_, **__): raise OSError(30, 'Read-only file system')\n"
        "pathlib.Path.unlink = no\n"
        "original = open\n"
        "import builtins; builtins.open = lambda p, m='r', *a, **k: no() if 'w' in m else original(p, m, *a, **k)\n"
        "from metaqap_fast.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "export", tmp_path / "s.h5", tmp_path / f"s.{form}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr == f"metaqap-fast: cannot write {tmp_path}/s.{form}: Read-only file system\n"


def no_room(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ("no/s.csv", "No such file or directory"),
        ("x" * 251 + ".csv", "File name too long"),
        ("d.csv", "Is a directory"),
    ],
)
def test_names_that_cannot_be_written(table: ScoreTable, tmp_path: Path, out: str, expected: str) -> None:
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(MetaqapError, match=f"cannot write .*: {expected}$"):
        export(table, tmp_path / out)
    assert os.listdir(tmp_path) == ["d.csv"]


def test_unknown_ending(table: ScoreTable, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.csv, \.jsonl, \.parquet"):
        export(table, tmp_path / "s.xlsx")
    with pytest.raises(UsageError, match="no such file"):
        export(tmp_path / "missing.h5", tmp_path / "s.csv")
    assert not list(tmp_path.iterdir())
