"""A column is one entry: a line in `Row`, and everything that is done with rows follows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, fields
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from typing_extensions import TypeAliasType

from metaqap_fast.records import Details, Stored
from metaqap_fast.scores.schema import COLUMNS, Column, columns_of, escaped, select
from metaqap_fast.scores.table import ScoreTable
from rows import a_row

ROOT = Path(__file__).parents[2]
LAST = '    nbytes: Annotated[int, Stored("u8", name="bytes")]\n'

# A column of each kind, some of which version 2 will have. "Kind" stands for an enum that is there already.
ENTRIES = {
    "blur": 'blur: Annotated[float, Stored("f4", meaning="0 sharp to 1 blurred")] = float("nan")',
    "number": 'number: Annotated[int, Stored("u8")] = 0',
    "cause": 'cause: Annotated[Status, Stored("u1")] = Status.ok',
    "harms": 'harms: Annotated[NDArray[np.float32], Stored("f4")] = '
    'dataclasses.field(default_factory=lambda: np.array(np.nan, np.float32))',
    "remark": 'remark: Annotated[str, Stored(name="remarks")] = "none"',
}  # fmt: skip

# What a row holds, what the column's default is, and how the two are exported.
VALUES = {
    "blur": ("0.125", {"blur": [0.125, None]}),
    "number": ("2**63 + 1", {"number": [2**63 + 1, 0]}),
    "cause": ("Status.corrupt", {"cause": ["corrupt", "ok"]}),
    "harms": (
        "np.array([.125, .25, .5], np.float32)",
        {"harm_x": [0.125, None], "harm_y": [0.25, None], "harm_z": [0.5, None]},
    ),
    "remark": ("'blurred'", {"remarks": ["blurred", "none"]}),
}

# A row that has the column, resumed into a file that lacks it, and merged, read and exported.
CODE = """
import sys
import numpy as np
from pathlib import Path
from metaqap_fast.errors import Status
from metaqap_fast.records import Row
from metaqap_fast.scores.store import Store
from metaqap_fast.scores.table import ScoreTable
name, value, folder = sys.argv[1], eval(sys.argv[2]), Path(sys.argv[3])
old = ScoreTable.read(folder / "old.h5")
assert len(old) == 1 and len(getattr(old, name)) == 1
attributes = {"members": ["m", "n"], "harms": ["x", "y", "z"]}
def row(key, **more):
    return Row(key, .5, .1, np.array([.5, .5], np.float32), Status.ok, "", 3, 2, 9, **more)
store = Store(folder / "old.h5", attributes, "resume", rows_per_part=1)
store.add(row(b"a", **{name: value}))
store.finish()
table = ScoreTable.read(folder / "old.h5")
assert table.keys == [b"a", b"b"], table.keys
np.testing.assert_array_equal(getattr(table[0], name), value)
assert type(getattr(table[0], name)) is type(value)
again = ScoreTable.from_rows(table, table.attributes)
assert repr(list(again)) == repr(list(table)) == repr(list(table[[0, 1]]))
both = ScoreTable.concatenate([old, table])
assert repr(list(both[1:])) == repr(list(table)) and repr(both[0]) == repr(table[1])
for form in ("csv", "jsonl", "parquet", "h5"):
    table.save(folder / f"new.{form}")
print(table.to_pandas().dtypes)
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the part of the package that deals with rows, to be changed."""
    package = tmp_path / "tree" / "metaqap_fast"
    (package / "scores").mkdir(parents=True)
    for path in [*(ROOT / "metaqap_fast").glob("*.py"), *(ROOT / "metaqap_fast" / "scores").glob("*.py")]:
        shutil.copy(path, package / path.relative_to(ROOT / "metaqap_fast"))
    return package


@pytest.mark.parametrize("name", ENTRIES)
def test_a_column_is_one_entry(tree: Path, tmp_path: Path, name: str) -> None:
    """One line in records.py; it is in rows, tables, files, merges and exports, and old files have its default."""
    records = tree / "records.py"
    assert records.read_text().count(LAST) == 1
    text = records.read_text().replace(LAST, f"{LAST}    {ENTRIES[name]}\n")
    records.write_text(text.replace("from dataclasses", "import dataclasses\nfrom dataclasses", 1))
    ScoreTable.from_rows([a_row(b"b")], {"members": ["m", "n"]}).save(tmp_path / "old.h5")
    value, expected = VALUES[name]
    command = [sys.executable, "-c", CODE, name, value, str(tmp_path)]
    changed = {**os.environ, "PYTHONPATH": str(tree.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=changed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "new.jsonl").read_text().splitlines()]
    assert {column: [row[column] for row in rows] for column in expected} == expected
    table = pq.read_table(tmp_path / "new.parquet")
    assert {column: table.column(column).to_pylist() for column in expected} == expected
    assert set(table.column_names) == set(rows[0])
    header, *lines = (tmp_path / "new.csv").read_text().splitlines()
    values = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    assert {c: [row[c] for row in values] for c in expected} == {
        c: ["" if v is None else str(v) for v in column] for c, column in expected.items()
    }
    back = ScoreTable.read(tmp_path / "new.h5")  # without the entry: the column is one that this version does not know
    assert back.keys == [b"a", b"b"] and not hasattr(back, name)


class Kind(IntEnum):
    sharp = 0
    blurred = 3


@dataclass(frozen=True)
class Toy:
    """One column of each kind, all but the first with a default."""

    number: Annotated[int, Stored("u8")]
    key: Annotated[bytes, Stored(name="path")] = b"?"
    note: Annotated[str, Stored(meaning="in words")] = "none"
    kind: Annotated[Kind, Stored("u1")] = Kind.blurred
    reasons: Annotated[NDArray[np.float32], Stored("f4")] = field(default_factory=lambda: np.array(0.25, np.float32))


TOYS = {column.field: column for column in columns_of(Toy)}
THREE, NONE = {"reasons": ["x", "y", "z"]}, {"members": ["m"]}


def test_what_a_column_is() -> None:
    def told(column: Column) -> list[object]:
        return [column.name, column.is_text, column.is_wide, column.is_optional, column.enum, column.stored.meaning]

    assert told(TOYS["number"]) == ["number", False, False, False, None, ""]
    assert told(TOYS["key"]) == ["path", True, False, True, None, ""]
    assert told(TOYS["note"]) == ["note", True, False, True, None, "in words"]
    assert told(TOYS["kind"]) == ["kind", False, False, True, Kind, ""]
    assert told(TOYS["reasons"]) == ["reasons", False, True, True, None, ""]
    assert TOYS["reasons"].labels(THREE) == ["x", "y", "z"] and TOYS["reasons"].labels(NONE) == []
    assert TOYS["reasons"].shape(5, THREE) == (5, 3) and TOYS["number"].shape(5, THREE) == (5,)
    with pytest.raises(KeyError):  # what every file has must say what it is
        COLUMNS[3].labels({})


def test_an_array_may_have_another_name() -> None:
    """NumPy 2.5 has it so, on Python 3.12 and newer."""
    kind = TypeVar("kind", bound=np.generic)
    named: Any = TypeAliasType("named", np.ndarray[Any, np.dtype[kind]], type_params=(kind,))

    @dataclass
    class Made:
        several: Annotated[named[np.float32], Stored("f4")]

    Made.__annotations__["several"] = Annotated[named[np.float32], Stored("f4")]  # which `named` is, nobody else knows
    (column,) = columns_of(Made)
    assert column.type is np.ndarray and column.is_wide


def test_a_column_of_values() -> None:
    assert TOYS["number"].of([1, 2**64 - 1], NONE).dtype == np.uint64  # type: ignore[union-attr]
    assert TOYS["key"].of((b"a", b"b"), NONE) == [b"a", b"b"]
    kinds = TOYS["kind"].of([Kind.blurred, Kind.sharp], NONE)
    assert kinds.tolist() == [3, 0] and kinds.dtype == np.uint8  # type: ignore[union-attr]
    assert TOYS["kind"].value(kinds, 0) is Kind.blurred
    rows = TOYS["reasons"].of([np.array([1, 2, 3]), np.array(4)], THREE)
    assert rows.tolist() == [[1, 2, 3], [4, 4, 4]] and rows.dtype == np.float32  # type: ignore[union-attr]
    assert TOYS["reasons"].value(rows, 0).tolist() == [1, 2, 3]
    assert TOYS["reasons"].of([], THREE).shape == (0, 3)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="reshape"):
        TOYS["reasons"].of([np.array([1])], THREE)


def test_rows_of_a_file_without_the_column() -> None:
    assert TOYS["note"].absent(2, NONE) == ["none", "none"]
    assert TOYS["kind"].absent(2, NONE).tolist() == [3, 3]  # type: ignore[union-attr]
    column = TOYS["reasons"]
    assert column.absent(2, THREE).tolist() == [[0.25] * 3] * 2  # type: ignore[union-attr]
    unknown = column.absent(2, NONE)  # of a file that did not even say what the numbers stand for
    assert unknown.shape == (2, 0) and unknown.dtype == np.float32  # type: ignore[union-attr]
    assert column.fitted(unknown, (3,)).tolist() == [[0.25] * 3] * 2
    known = column.of([np.array([1, 2, 3])], THREE)
    assert column.fitted(known, (3,)) is known
    assert column.concatenate([unknown, known, unknown]).tolist() == [*[[0.25] * 3] * 2, [1, 2, 3], *[[0.25] * 3] * 2]
    assert column.concatenate([unknown, unknown]).shape == (4, 0)  # type: ignore[union-attr]
    assert TOYS["note"].concatenate([["a"], [], ["b", "c"]]) == ["a", "b", "c"]
    assert TOYS["number"].concatenate([np.array([1]), np.array([2])]).tolist() == [1, 2]  # type: ignore[union-attr]
    members = COLUMNS[3]  # in every file, so another width is another model
    with pytest.raises(ValueError, match="must match exactly"):
        members.concatenate([np.zeros((1, 0)), np.zeros((1, 2))])


def test_rows_are_chosen() -> None:
    assert select([b"a", b"b", b"c"], np.array([2, 0])) == [b"c", b"a"]
    assert select([b"a", b"b", b"c"], slice(1, None)) == [b"b", b"c"]
    assert np.asarray(select(np.arange(3), np.array([2, 0]))).tolist() == [2, 0]


def test_columns_are_the_fields_of_a_row() -> None:
    assert [(c.field, c.name, c.type.__name__, c.stored.dtype) for c in COLUMNS] == [
        ("key", "path", "bytes", ""),
        ("score", "score", "float", "f4"),
        ("uncertainty", "uncertainty", "float", "f4"),
        ("members", "members", "ndarray", "f4"),
        ("status", "status", "Status", "u1"),
        ("error", "error", "str", ""),
        ("width", "width", "int", "u4"),
        ("height", "height", "int", "u4"),
        ("nbytes", "bytes", "int", "u8"),
        ("note", "note", "str", ""),
        ("seen", "seen", "int", "u8"),
        ("reason", "reason", "str", ""),
        ("reasons", "reasons", "ndarray", "f4"),
        ("hash", "hash", "int", "u8"),
        ("date", "date", "str", ""),
        ("camera", "camera", "str", ""),
        ("lens", "lens", "str", ""),
        ("exposure", "exposure", "float", "f4"),
        ("aperture", "aperture", "float", "f4"),
        ("iso", "iso", "float", "f4"),
        ("focal_length", "focal_length", "float", "f4"),
    ]
    assert not any(column.is_optional for column in COLUMNS[:9])  # version 1's are in every file
    assert all(column.is_optional for column in COLUMNS[9:])
    assert [column.field for column in COLUMNS if not column.is_exported] == ["seen"]
    needing = [column.field for column in COLUMNS if not column.is_stored(NONE)]
    assert needing == ["reason", "reasons", *(field.name for field in fields(Details))]
    assert all(column.is_stored({**THREE, "exif": "date"}) for column in COLUMNS)
    row = a_row(b"k")
    assert [getattr(row, column.field) is not None for column in COLUMNS] == [True] * len(COLUMNS)


@pytest.mark.parametrize("text", [("\udcff", r"\xff"), ("\ud800", r"\ud800"), ("a\0ü", r"a\x00ü"), ("", "")])
def test_escaped(text: tuple[str, str]) -> None:
    assert escaped(text[0]) == text[1]
    if text[1] != r"\ud800":
        assert escaped(os.fsencode(text[0])) == text[1]
