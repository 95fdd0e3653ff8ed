"""Score tables as HDF5: format "metaqap-scores", version 2.

`/scores` holds a dataset for each column of schema.py, the root attributes how the scores were made. A reader
accepts version 1 as well (it had fewer columns, and no status too_small), and a newer minor version of either (the
attribute `format_minor`, 0 where there is none): columns that it does not know are passed over, columns that a file
lacks hold their default. What would mislead such a reader (another meaning of a column, another value of an enum) is a
new major version.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.scores.schema import COLUMNS, Column, Values, escaped
from metaqap_fast.scores.table import ScoreTable

if TYPE_CHECKING:
    import h5py

FORMAT = "metaqap-scores"
FORMAT_VERSION = 2  # written
FORMAT_VERSIONS = (1, 2)  # read
ABOUT_FILE = ("format", "format_version", "format_minor")  # root attributes about the file, not the scores
CHUNK = 4096  # rows of a dataset's chunk
# What h5py raises for a file that is not as it should be.
SIGNATURE = b"\x89HDF\r\n\x1a\n"
DAMAGE = (LookupError, OSError, RuntimeError, ValueError, TypeError, AttributeError, ArithmeticError, MemoryError)


def open_scores(path: str | os.PathLike[str]) -> h5py.File:
    """Open a score file for reading and check what it is; raises as `ScoreTable.read`."""
    import h5py

    path = Path(path)
    if not path.exists():
        raise UsageError(f"no such file: {path}")
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name the score file that `metaqap-fast score` wrote")
    try:
        # Without a lock, which some file systems don't have: a score file is never changed, only replaced.
        file = h5py.File(path, "r", locking=False)
    except DAMAGE as error:
        why = "not a score file, for it is not HDF5" if _is_other(path) else f"not a readable HDF5 file: {_line(error)}"
        raise MetaqapError(f"{path} is {why}") from None
    try:
        found, version = _text(file.attrs.get("format")), file.attrs.get("format_version")
        ours = found == FORMAT and "scores" in file
    except DAMAGE as error:
        file.close()
        raise MetaqapError(f"{path} is damaged: {_line(error)}") from None
    if ours and _plain(version) in FORMAT_VERSIONS:
        return file
    file.close()
    if not ours:
        raise MetaqapError(f"{path} is an HDF5 file, but not a score file of this program")
    known = " and ".join(map(str, FORMAT_VERSIONS))
    raise MetaqapError(f"{path} has score format {version}; this program reads {known}")


def _is_other(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(SIGNATURE)) != SIGNATURE
    except OSError:
        return False


@contextmanager
def _naming(file: h5py.File) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise MetaqapError(f"{file.filename} is damaged: {_line(error)}") from None


def read_rows(file: h5py.File, rows: slice = slice(None)) -> ScoreTable:
    """Rows of an open score file."""
    attributes = read_attributes(file)
    with _naming(file):
        g = file["scores"]
        count = len(g["status"])
        there = [column for column in COLUMNS if column.name in g or not column.is_optional]
        for column in there:  # before room is made for rows that a damaged file claims to have
            _check(column, g[column.name], count, attributes)
        columns = {column.field: _read(column, g, rows) for column in there}
        for column in COLUMNS:
            if column not in there:
                columns[column.field] = column.absent(len(range(count)[rows]), attributes)
        for column in there:
            if column.enum and not np.isin(columns[column.field], list(column.enum)).all():
                raise ValueError(f"{column.name} has a value out of range")
        return ScoreTable(columns, attributes)


def read_attributes(file: h5py.File) -> dict[str, Any]:
    """Root attributes of an open score file as plain values that `create_scores` and JSON take."""
    import h5py

    with _naming(file):
        return {name: [] if isinstance(value, h5py.Empty) else _plain(value) for name, value in file.attrs.items()}


def unknown_columns(file: h5py.File) -> list[str]:
    """Columns of an open score file that this version would lose if it wrote the rows again."""
    with _naming(file):
        return sorted(set(file["scores"]) - {name for column in COLUMNS for name in (column.name, _raw(column))})


def _check(column: Column, stored: h5py.Dataset, count: int, attributes: Mapping[str, Any]) -> None:
    import h5py

    if column.is_text:
        sound = h5py.check_string_dtype(stored.dtype) is not None
    else:
        size = stored.size * stored.dtype.itemsize
        sound = stored.dtype == column.stored.dtype and stored.id.get_storage_size() >= size
    if column.is_wide and any(not isinstance(label, str) for label in column.labels(attributes)):
        raise ValueError(f"the attribute {column.name} is not a list of names")
    if not sound or stored.shape != column.shape(count, attributes):
        raise ValueError(f"{column.name} is not what it should be")


def _read(column: Column, g: h5py.Group, rows: slice) -> Values:
    values = g[column.name][rows]
    if column.type is str:
        return [text.decode(errors="replace") for text in values]
    if column.type is bytes:
        return _bytes(column, g, rows, values)
    return np.asarray(values)


def _bytes(column: Column, g: h5py.Group, rows: slice, values: Any) -> list[bytes]:
    """What a zero byte had to be escaped in is read from where the bytes themselves are."""
    places = range(len(g[column.name]))[rows]
    found = [bytes(value) for value in values]
    for i, value in enumerate(found):
        if b"\\x00" in value and len(raw := g[_raw(column)][places[i]]):
            found[i] = bytes(raw)
    return found


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def create_scores(path: Path | IO[bytes] | io.FileIO, attributes: Mapping[str, Any]) -> h5py.File:
    """An empty score file to `append_rows` to."""
    import h5py

    # Attributes of more than 64 kB (thousands of sources) need the format of HDF5 1.8; any later library reads it.
    file = h5py.File(path, "w", libver=("v108", "v108"))
    about = {"format": FORMAT, "format_version": FORMAT_VERSION}
    for name, value in {**about, **{k: v for k, v in attributes.items() if k not in ABOUT_FILE}}.items():
        file.attrs[name] = _storable(value)
    g = file.create_group("scores")
    for column in [column for column in COLUMNS if column.is_stored(attributes)]:
        shape, rest = column.shape(0, attributes), column.shape(0, attributes)[1:]
        column_of = g.create_dataset(column.name, shape, _dtype(column), maxshape=(None, *rest), chunks=(CHUNK, *rest))
        if column.type is bytes:
            g.create_dataset(_raw(column), (0,), h5py.vlen_dtype(np.uint8), maxshape=(None,), chunks=(CHUNK,))
        if column.enum:
            column_of.attrs["values"] = json.dumps({value.name: value.value for value in column.enum})
        for name in ("range", "meaning"):
            if text := getattr(column.stored, name):
                column_of.attrs[name] = text
    return file


def _dtype(column: Column) -> Any:
    import h5py

    if column.is_text:
        return h5py.string_dtype("utf-8")
    if column.enum:
        return h5py.enum_dtype({value.name: value.value for value in column.enum}, basetype=column.stored.dtype)
    return column.stored.dtype


def _raw(column: Column) -> str:
    """The dataset beside a column of bytes: the same bytes, where they are not valid UTF-8 or hold a zero."""
    return f"{column.name}_raw" if column.type is bytes else column.name


def append_rows(file: h5py.File, table: ScoreTable) -> None:
    """Append rows to a file made by `create_scores`."""
    g = file["scores"]
    start, stop = len(g["status"]), len(g["status"]) + len(table)
    for dataset in g.values():
        dataset.resize(stop, axis=0)
    if not len(table):
        return
    for column in [column for column in COLUMNS if column.name in g]:
        values, dataset = table.columns[column.field], g[column.name]
        if not column.is_text:
            dataset[start:] = column.fitted(values, dataset.shape[1:])
            continue
        plain = _are_plain(values)
        dataset[start:] = np.array(values if plain else [_storable(value) for value in values], object)
        if column.type is bytes and not plain:
            for i, value in enumerate(values):
                if escaped(value).encode() != value:
                    g[_raw(column)][start + i] = np.frombuffer(value, np.uint8)


def _are_plain(values: Values) -> bool:
    """Whether none of a column's texts or bytes has to be escaped: for most columns one look is enough."""
    together: Any = values[0][:0].join(values)
    return together.isascii() and ("\0" if isinstance(together, str) else b"\0") not in together


def _storable(value: Any) -> Any:
    """Texts that HDF5 can hold: UTF-8 (or any bytes in place of it) that do not end before they are over."""
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    if isinstance(value, bytes) and b"\0" in value:
        return escaped(value).encode()
    return escaped(value) if isinstance(value, str) else value


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _plain(value: Any) -> Any:
    """HDF5 attribute as a plain Python value."""
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value.tolist()]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        return escaped(value)
    return value if isinstance(value, str | int | float | list) else str(value)
