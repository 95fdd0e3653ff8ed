"""Scores for other programs: csv, jsonl and parquet files, in bounded memory; pyarrow tables and pandas data frames.

They all have the same columns: those of schema.py under their names in files, and for a column of several numbers one
column each (`member_NAME`, `reason_NAME`, with _ for spaces), at the end. Where an image failed its numbers are null.
Keys and texts that are not UTF-8 are escaped as \\xNN.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.options import HDF5
from metaqap_fast.scores.durable import replacing, write_scores
from metaqap_fast.scores.hdf5 import open_scores, read_rows
from metaqap_fast.scores.schema import COLUMNS, Column, Values, escaped
from metaqap_fast.scores.table import ScoreTable

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

ROWS = 65_536  # in memory at once, and in a row group of parquet


def export(scores: ScoreTable | str | os.PathLike[str], path: str | os.PathLike[str]) -> int:
    """Write a table or a score file as .csv, .jsonl or .parquet (needs pyarrow), by the name's ending; atomically.

    Returns the number of rows. Numbers in csv and jsonl have as many digits as tell them apart from their neighbours
    in the precision that they are stored in.

    Raises:
        UsageError: another ending, or no such score file.
        MetaqapError: pyarrow is missing, the score file is damaged, or the file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in WRITERS:
        raise UsageError(f"cannot export to {Path(path).name}: the name must end in {', '.join(WRITERS)}")
    count = 0

    def counted() -> Iterator[ScoreTable]:
        nonlocal count
        for table in in_pieces(scores):
            count += len(table)
            yield table

    with replacing(path) as new, open(new, "wb") as file:
        WRITERS[suffix](file, counted())
    return count


def write_table_file(path: Path, suffix: str, attributes: Mapping[str, Any], tables: Iterable[ScoreTable]) -> None:
    """Rows as a whole file of the form that a name with this suffix stands for, on the disk when this returns.

    Raises:
        OSError: it cannot be written; nothing is to be made of what is there.
        MetaqapError: pyarrow is missing.
    """
    if suffix in HDF5:
        write_scores(path, attributes, tables)
        return
    first = itertools.chain([ScoreTable.from_rows([], attributes)], tables)  # which may be none
    with open(path, "wb") as file:
        WRITERS[suffix](file, (ScoreTable(table.columns, attributes) for table in first))
        file.flush()
        os.fsync(file.fileno())


def records(table: ScoreTable) -> Iterator[dict[str, Any]]:
    """Rows as dictionaries of plain values that JSON can hold."""
    columns = {name: _plain(column, values) for name, column, values in exported(table)}
    for row in zip(*columns.values(), strict=True):
        yield dict(zip(columns, row, strict=True))


def exported(table: ScoreTable) -> Iterator[tuple[str, Column, Values]]:
    """The columns of an export: name, what it is, and its values, NaN where there are none."""
    for column in COLUMNS:
        if column.is_exported and not column.is_wide and column.is_stored(table.attributes):
            yield column.name, column, _known(table, table.columns[column.field])
    for column in COLUMNS:
        if column.is_exported and column.is_wide:
            one = column.name.removesuffix("s")
            values: Any = table.columns[column.field]
            for i, label in enumerate(column.labels(table.attributes)):
                yield f"{one}_{label}".replace(" ", "_"), column, _known(table, values[:, i])


def to_arrow(table: ScoreTable) -> pa.Table:
    """See `ScoreTable.to_arrow`."""
    try:
        import pyarrow as pa
    except ImportError:
        raise MetaqapError("pyarrow is missing: pip install 'metaqap-fast[parquet]'") from None
    arrays = {}
    for name, column, values in exported(table):
        if _is_number(column):
            arrays[name] = pa.array(values, from_pandas=True)  # NaN is null
        else:
            arrays[name] = pa.array(_plain(column, values), pa.string())
    metadata = {name: json.dumps(value, default=str) for name, value in table.attributes.items()}
    return pa.table(arrays).replace_schema_metadata(metadata)


def to_pandas(table: ScoreTable) -> pd.DataFrame:
    """See `ScoreTable.to_pandas`."""
    try:
        import pandas as pd
    except ImportError:
        raise MetaqapError("pandas is missing: pip install 'metaqap-fast[pandas]'") from None
    return pd.DataFrame(
        {name: values if _is_number(column) else _plain(column, values) for name, column, values in exported(table)}
    )


def in_pieces(scores: ScoreTable | str | os.PathLike[str]) -> Iterator[ScoreTable]:
    """At least one table, of at most ROWS rows."""
    if isinstance(scores, ScoreTable):
        for start in range(0, max(len(scores), 1), ROWS):
            yield scores[start : start + ROWS]
        return
    with open_scores(scores) as file:
        for start in itertools.count(0, ROWS):
            table = read_rows(file, slice(start, start + ROWS))
            if len(table) or not start:
                yield table
            if len(table) < ROWS:
                return


def _known(table: ScoreTable, values: Values) -> Values:
    """NaN for the numbers of images that failed after some of them were there."""
    if isinstance(values, list) or values.dtype.kind != "f":
        return values
    return np.where(table.ok & np.isfinite(values), values, np.array(np.nan, values.dtype))


def _is_number(column: Column) -> bool:
    return not column.is_text and column.enum is None


def _plain(column: Column, values: Values) -> list[Any]:
    """Python's own values: texts, integers, floats of few digits; None for NaN."""
    if column.is_text:
        return [escaped(text) for text in values]
    array = np.asarray(values)
    if column.enum is not None:
        names = {value.value: value.name for value in column.enum}
        return [names[value] for value in array.tolist()]
    return _shortest(array) if array.dtype.kind == "f" else array.tolist()


def _shortest(values: NDArray[Any]) -> list[float | None]:
    """Floats that Python writes with the digits of the array's precision: .1 and not .10000000149011612."""
    return [None if text == "nan" else float(text) for text in values.astype(str).tolist()]


def csv_lines(table: ScoreTable, header: bool) -> bytes:
    """Rows as lines of csv; `header` puts the names of the columns before them."""
    text = io.StringIO()
    out = csv.writer(text)
    columns = {name: _plain(column, values) for name, column, values in exported(table)}
    if header:
        out.writerow(columns)
    out.writerows(zip(*columns.values(), strict=True))
    return text.getvalue().encode()


def json_lines(table: ScoreTable, header: bool = False) -> bytes:
    """Rows as lines of JSON, which need no header."""
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records(table))


# Rows that are written one after the other.
LINES: dict[str, Callable[[ScoreTable, bool], bytes]] = {".csv": csv_lines, ".jsonl": json_lines}


def _write_lines(lines: Callable[[ScoreTable, bool], bytes], file: IO[bytes], tables: Iterator[ScoreTable]) -> None:
    for number, table in enumerate(tables):
        file.write(lines(table, not number))


def _write_parquet(file: IO[bytes], tables: Iterator[ScoreTable]) -> None:
    first = to_arrow(next(tables))
    import pyarrow.parquet as pq

    with pq.ParquetWriter(file, first.schema) as out:
        for table in itertools.chain([first], map(to_arrow, tables)):
            if len(table):
                out.write_table(table)


# Each writes the tables that it is given; the first may have no rows.
WRITERS: dict[str, Callable[[IO[bytes], Iterator[ScoreTable]], None]] = {
    **{suffix: partial(_write_lines, lines) for suffix, lines in LINES.items()},
    ".parquet": _write_parquet,
}
