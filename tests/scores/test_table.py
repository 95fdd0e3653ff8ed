"""A table is rows and columns at once, by numpy's rules, and can be given away."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from metaqap_fast.errors import MetaqapError, Status, UsageError
from metaqap_fast.records import Row
from metaqap_fast.scores.schema import COLUMNS
from metaqap_fast.scores.table import ScoreTable
from rows import a_row


@pytest.fixture
def table() -> ScoreTable:
    items = [a_row(b"%d.jpg" % i, i / 10, width=i) for i in range(6)]
    items[4] = a_row(b"4.jpg", status=Status.corrupt, error="cut off")
    return ScoreTable.from_rows(items, {"members": ["m", "n"], "bundle": "tiny"})


def same(a: Row, b: Row) -> bool:
    return all(repr(getattr(a, c.field)) == repr(getattr(b, c.field)) for c in COLUMNS)


def test_a_row_by_its_number(table: ScoreTable) -> None:
    row = table[np.int64(-3)]
    assert (row.key, row.width, row.status, row.error) == (b"3.jpg", 3, Status.ok, "")
    assert row.score == np.float32(0.3) and row.members.tolist() == [np.float32(0.3)] * 2
    assert [type(getattr(row, c.field)) for c in COLUMNS] == [
        bytes,
        float,
        float,
        np.ndarray,
        Status,
        str,
        int,
        int,
        int,
        str,
        int,
        str,
        np.ndarray,
        int,
        *[str] * 3,
        *[float] * 4,
    ]
    assert same(table[0], table[-6]) and same(table[np.array(2)], table[2])
    assert table[4].status is Status.corrupt and table[4].error == "cut off" and np.isnan(table[4].score)
    for wrong in (6, -7):
        with pytest.raises(IndexError, match="out of bounds"):
            table[wrong]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (slice(1, 4), [1, 2, 3]),
        (slice(None, None, -2), [5, 3, 1]),
        (slice(9, 12), []),
        ([5, 0, 0, -1], [5, 0, 0, 5]),
        (np.array([2, 1], np.uint8), [2, 1]),
        (np.arange(6) % 2 == 0, [0, 2, 4]),
        ([False, True, False, False, False, False], [1]),
        ([], []),
    ],
)
def test_a_choice_of_rows_is_a_table(table: ScoreTable, rows: object, expected: list[int]) -> None:
    chosen = table[rows]  # type: ignore[call-overload]
    assert isinstance(chosen, ScoreTable) and chosen.attributes == table.attributes
    assert len(chosen) == len(expected) and chosen.members.shape == (len(expected), 2)
    assert all(same(row, table[i]) for row, i in zip(chosen, expected, strict=True))
    assert {c.field: type(chosen.columns[c.field]) for c in COLUMNS} == {n: type(v) for n, v in table.columns.items()}


@pytest.mark.parametrize("rows", [[6], [-7], [True], np.ones(7, bool), np.ones((2, 2), int), True, None, "score", 0.5])
def test_what_chooses_no_rows_is_an_index_error(table: ScoreTable, rows: object) -> None:
    with pytest.raises(IndexError):
        table[rows]  # type: ignore[call-overload]


def test_rows_are_not_chosen_in_two_dimensions(table: ScoreTable) -> None:
    with pytest.raises(IndexError, match="a number, a slice, or a one-dimensional mask or list of numbers"):
        table[np.ones((2, 2), int)]


def test_a_table_gives_its_rows_and_is_made_of_them(table: ScoreTable) -> None:
    rows = list(table)
    assert all(isinstance(row, Row) for row in rows) and [row.key for row in rows] == table.keys
    again = ScoreTable.from_rows(iter(rows), table.attributes)
    for column in COLUMNS:
        assert repr(again.columns[column.field]) == repr(table.columns[column.field])
        assert getattr(again.columns[column.field], "dtype", None) == (column.stored.dtype or None)
    assert table.paths == [f"{i}.jpg" for i in range(6)]
    assert list(table[table.ok].keys) == [b"0.jpg", b"1.jpg", b"2.jpg", b"3.jpg", b"5.jpg"]


def test_no_rows_have_columns_too() -> None:
    empty = ScoreTable.from_rows([], {"members": ["m", "n"]})
    assert len(empty) == 0 and list(empty) == [] and empty.members.shape == (0, 2)
    assert repr(empty) == "<ScoreTable: 0 rows, 0 scored>"


def test_it_is_shown_in_a_line_and_compared_by_identity(table: ScoreTable) -> None:
    assert repr(table) == "<ScoreTable: 6 rows, 5 scored, model tiny>"
    assert table == table and table != table[:] and len({table, table[:]}) == 2


def test_columns_are_attributes(table: ScoreTable) -> None:
    assert {column.field for column in COLUMNS} <= set(dir(table))
    with pytest.raises(AttributeError, match="no column 'scor'; it has key, score"):
        _ = table.scor
    assert same(copy.deepcopy(table)[1], table[1])
    declared = ScoreTable.__annotations__  # for editors: none that the schema does not have
    assert set(declared) <= {column.field for column in COLUMNS}
    with pytest.raises(ValueError, match="different lengths"):
        ScoreTable({**table.columns, "error": []}, table.attributes)


def test_tables_one_after_the_other(table: ScoreTable) -> None:
    other = ScoreTable.from_rows([a_row(b"x")], {"members": ["m", "n"], "bundle": "other", "more": 1})
    both = ScoreTable.concatenate([table, other])
    assert both.keys == [*table.keys, b"x"] and both.members.shape == (7, 2) and both.error[4] == "cut off"
    assert both.attributes == {**other.attributes, **table.attributes}


def test_save_by_the_name_s_ending(table: ScoreTable, tmp_path: Path) -> None:
    for name in ("s.h5", "s.hdf5", "s.csv", "s.jsonl", "s.parquet"):
        (tmp_path / name).write_text("old")
        table.save(tmp_path / name)
    for name in ("s.h5", "s.hdf5"):
        read = ScoreTable.read(tmp_path / name)
        assert all(same(a, b) for a, b in zip(read, table, strict=True))
        assert read.attributes == {**table.attributes, "format": "metaqap-scores", "format_version": 2}
        read.save(str(tmp_path / "again.h5"))
        assert ScoreTable.read(tmp_path / "again.h5").attributes == read.attributes
    assert (tmp_path / "s.csv").read_text().startswith("path,score,")
    with pytest.raises(UsageError, match=r"s\.txt: the name must end in \.h5, \.csv, \.jsonl, \.parquet"):
        table.save(tmp_path / "s.txt")
    with pytest.raises(MetaqapError, match=r"cannot write .*no/s\.h5: No such file or directory$"):
        table.save(tmp_path / "no" / "s.h5")
    assert len(list(tmp_path.iterdir())) == 6


def test_a_score_file_is_replaced_only_by_a_whole_one(
    table: ScoreTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.save(tmp_path / "s.h5")
    monkeypatch.setattr("metaqap_fast.scores.durable.append_rows", no_room)
    with pytest.raises(MetaqapError, match=r"cannot write .*s\.h5: No space left on device$"):
        table[:2].save(tmp_path / "s.h5")
    assert len(ScoreTable.read(tmp_path / "s.h5")) == 6 and len(list(tmp_path.iterdir())) == 1


def no_room(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_pandas(table: ScoreTable) -> None:
    frame = table.to_pandas()
    assert list(frame) == [
        "path",
        "score",
        "uncertainty",
        "status",
        "error",
        "width",
        "height",
        "bytes",
        "note",
        "hash",
        "member_m",
        "member_n",
    ]
    assert frame.score.dtype == np.float32 and frame.bytes.dtype == np.uint64
    assert frame.score.isna().tolist() == [False] * 4 + [True, False] and frame.status[4] == "corrupt"
    assert frame.nsmallest(1, "score").path.tolist() == ["0.jpg"]
    assert table[frame.score > 0.25].keys == [b"3.jpg", b"5.jpg"]


def test_arrow(table: ScoreTable) -> None:
    table.attributes["odd"] = np.float32(0.5)  # JSON has no word for it
    arrow = table.to_arrow()
    assert json.loads(arrow.schema.metadata[b"odd"]) == "0.5"
    assert arrow.column("score").to_pylist()[3:] == [np.float32(0.3), None, 0.5]
    assert {name: str(arrow.schema.field(name).type) for name in arrow.column_names} == {
        "path": "string", "score": "float", "uncertainty": "float", "status": "string", "error": "string",
        "width": "uint32", "height": "uint32", "bytes": "uint64", "note": "string",
        "hash": "uint64", "member_m": "float", "member_n": "float",
    }  # fmt: skip


@pytest.mark.parametrize(("library", "extra"), [("pandas", "pandas"), ("pyarrow", "parquet")])
def test_a_missing_library_is_named(
    table: ScoreTable, tmp_path: Path, library: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MetaqapError, match=rf"{library} is missing: pip install 'metaqap-fast\[{extra}\]'"):
        table.to_pandas() if library == "pandas" else table.save(tmp_path / "s.parquet")
    assert not list(tmp_path.iterdir())
