"""Score tables as HDF5: format "metaqap-scores", version 1."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from metaqap_fast.errors import MetaqapError, Status, UsageError
from metaqap_fast.scores.table import COLUMNS, ScoreTable

if TYPE_CHECKING:
    import h5py

FORMAT = "metaqap-scores"
FORMAT_VERSION = 1
CHUNK = 4096  # rows of a dataset's chunk
NUMBERS = {
    "score": "f4",
    "uncertainty": "f4",
    "members": "f4",
    "status": "u1",
    "width": "u4",
    "height": "u4",
    "bytes": "u8",
}
# What h5py raises for a file that is not as it should be.
DAMAGE = (LookupError, OSError, RuntimeError, ValueError, TypeError, AttributeError, ArithmeticError, MemoryError)


def open_scores(path: str | os.PathLike[str]) -> h5py.File:
    """Open a score file for reading and check what it is; raises as `ScoreTable.read`."""
    import h5py

    path = Path(path)
    if not path.exists():
        raise UsageError(f"no such file: {path}")
    try:
        file = h5py.File(path, "r")
    except DAMAGE as error:
        raise MetaqapError(f"{path} is not a readable HDF5 file: {_line(error)}") from None
    try:
        found, version = _text(file.attrs.get("format")), file.attrs.get("format_version")
        ours = found == FORMAT and "scores" in file
    except DAMAGE as error:
        file.close()
        raise MetaqapError(f"{path} is damaged: {_line(error)}") from None
    if ours and _plain(version) == FORMAT_VERSION:
        return file
    file.close()
    if not ours:
        raise MetaqapError(f"{path} is an HDF5 file, but not a score file of this program")
    raise MetaqapError(f"{path} has score format {version}; this program reads {FORMAT_VERSION}")


def read_rows(file: h5py.File, rows: slice = slice(None)) -> ScoreTable:
    """Rows of an open score file."""
    import h5py

    try:
        g = file["scores"]
        count = len(g["status"])
        # Before room is made for rows that a damaged file claims to have.
        for name in (*NUMBERS, "path", "error"):
            stored, dtype = g[name], NUMBERS.get(name)
            right = h5py.check_string_dtype(stored.dtype) if dtype is None else stored.dtype == dtype
            wide = name == "members"
            short = dtype is not None and stored.id.get_storage_size() < stored.size * stored.dtype.itemsize
            if not right or short or stored.ndim != 1 + wide or len(stored) != count:
                raise ValueError(f"{name} is not what it should be")
        table = ScoreTable(
            [bytes(key) for key in g["path"][rows]],
            g["score"][rows],
            g["uncertainty"][rows],
            g["members"][rows],
            g["status"][rows],
            [text.decode(errors="replace") for text in g["error"][rows]],
            g["width"][rows],
            g["height"][rows],
            g["bytes"][rows],
            {name: _plain(value) for name, value in file.attrs.items()},
        )
        names = table.attributes["members"]
        if {len(getattr(table, name)) for name in COLUMNS} != {len(table)} or table.members.shape[1:] != (len(names),):
            raise ValueError("columns of different lengths")
        if any(not isinstance(name, str) for name in names) or (table.status > max(Status)).any():
            raise ValueError("a value out of range")
        return table
    except DAMAGE as error:
        raise MetaqapError(f"{file.filename} is damaged: {_line(error)}") from None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def create_scores(path: Path | IO[bytes] | io.FileIO, attributes: Mapping[str, Any]) -> h5py.File:
    """An empty score file to `append_rows` to."""
    import h5py

    file = h5py.File(path, "w")
    for name, value in {"format": FORMAT, "format_version": FORMAT_VERSION, **attributes}.items():
        file.attrs[name] = value
    g = file.create_group("scores")
    text = h5py.string_dtype("utf-8")
    columns: dict[str, Any] = {
        "path": text,
        # Only where `path` is not valid UTF-8: the same bytes, for readers that refuse to show them.
        "path_raw": h5py.vlen_dtype(np.uint8),
        "score": "f4",
        "uncertainty": "f4",
        "members": "f4",
        "status": h5py.enum_dtype({s.name: s.value for s in Status}, basetype="u1"),
        "error": text,
        "width": "u4",
        "height": "u4",
        "bytes": "u8",
    }
    m = len(attributes["members"])
    for name, dtype in columns.items():
        wide = name == "members"
        shape, limit, chunk = ((0, m), (None, m), (CHUNK, m)) if wide else ((0,), (None,), (CHUNK,))
        g.create_dataset(name, shape, dtype, maxshape=limit, chunks=chunk)
    g["status"].attrs["values"] = json.dumps({s.name: s.value for s in Status})
    g["score"].attrs["range"] = "0 worst to 1 best, NaN where status is not ok"
    g["uncertainty"].attrs["meaning"] = "one standard deviation, in the units of the score"
    return file


def append_rows(file: h5py.File, table: ScoreTable) -> None:
    """Append rows to a file made by `create_scores`."""
    g = file["scores"]
    start, stop = len(g["path"]), len(g["path"]) + len(table)
    for dataset in g.values():
        dataset.resize(stop, axis=0)
    if not len(table):
        return
    g["path"][start:] = np.array(table.keys, object)
    for i, key in enumerate(table.keys):
        if not _is_utf8(key):
            g["path_raw"][start + i] = np.frombuffer(key, np.uint8)
    g["error"][start:] = np.array(table.error, object)
    numbers = {
        "score": table.score,
        "uncertainty": table.uncertainty,
        "members": table.members,
        "status": table.status,
        "width": table.width,
        "height": table.height,
        "bytes": table.nbytes,
    }
    for name, values in numbers.items():
        g[name][start:] = values


def _is_utf8(key: bytes) -> bool:
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return True


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _plain(value: Any) -> Any:
    """HDF5 attribute as a plain Python value."""
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value
