"""Score tables in memory and as HDF5 (format "metaqap-scores", version 1), and their export."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.errors import MetaqapError, Status, UsageError

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
COLUMNS = ("keys", "score", "uncertainty", "members", "status", "error", "width", "height", "nbytes")


@dataclass(frozen=True, slots=True)
class Row:
    """One image's result."""

    key: bytes
    status: Status
    error: str
    score: float  # 0 worst to 1 best, NaN where failed
    uncertainty: float
    members: NDArray[np.float32]  # [M]
    width: int
    height: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Rows as columns of equal length.

    keys: paths as bytes. score, uncertainty: [N] float32, 0 worst to 1 best, NaN where failed. members:
    [N, M] float32. status: [N] uint8, see `Status`. error: N texts. width, height: [N] uint32, pixels as
    displayed. nbytes: [N] uint64. attributes: how the scores were made.
    """

    keys: list[bytes]
    score: NDArray[np.float32]
    uncertainty: NDArray[np.float32]
    members: NDArray[np.float32]
    status: NDArray[np.uint8]
    error: list[str]
    width: NDArray[np.uint32]
    height: NDArray[np.uint32]
    nbytes: NDArray[np.uint64]
    attributes: dict[str, Any]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, rows: slice) -> ScoreTable:
        return ScoreTable(**{name: getattr(self, name)[rows] for name in COLUMNS}, attributes=self.attributes)

    @classmethod
    def concatenate(cls, tables: Sequence[ScoreTable]) -> ScoreTable:
        """The rows of one or more tables, with the first one's attributes."""
        columns: dict[str, Any] = {}
        for name in COLUMNS:
            parts = [getattr(table, name) for table in tables]
            columns[name] = list(chain(*parts)) if isinstance(parts[0], list) else np.concatenate(parts)
        return cls(**columns, attributes=tables[0].attributes)

    @property
    def paths(self) -> list[str]:
        """Keys as text; bytes that are not UTF-8 by surrogateescape, as `os.fsdecode` does."""
        return [os.fsdecode(key) for key in self.keys]

    @property
    def ok(self) -> NDArray[np.bool_]:
        """[N] True where the image was scored."""
        return np.asarray(self.status == Status.ok)

    @classmethod
    def from_rows(cls, rows: Sequence[Row], attributes: Mapping[str, Any]) -> ScoreTable:
        """Columns of a list of rows; `attributes["members"]` gives the width of an empty table."""
        m = len(attributes["members"])
        return cls(
            [row.key for row in rows],
            np.array([row.score for row in rows], np.float32),
            np.array([row.uncertainty for row in rows], np.float32),
            np.array([row.members for row in rows], np.float32).reshape(len(rows), m),
            np.array([row.status for row in rows], np.uint8),
            [row.error for row in rows],
            np.array([row.width for row in rows], np.uint32),
            np.array([row.height for row in rows], np.uint32),
            np.array([row.nbytes for row in rows], np.uint64),
            dict(attributes),
        )

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ScoreTable:
        """Read a score file.

        Raises:
            UsageError: no such file.
            MetaqapError: not a score file, damaged, or of a newer format.
        """
        with open_scores(path) as file:
            return read_rows(file)


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


# --- export ----------------------------------------------------------------------------------------------


def records(table: ScoreTable) -> Iterator[dict[str, Any]]:
    """Rows as dictionaries of plain values; NaN is None, bytes that are not UTF-8 are escaped as \\xNN."""
    names = table.attributes["members"]
    for i, key in enumerate(table.keys):
        ok = table.status[i] == Status.ok
        yield {
            "path": key.decode(errors="backslashreplace"),
            "score": float(table.score[i]) if ok else None,
            "uncertainty": float(table.uncertainty[i]) if ok else None,
            "status": Status(table.status[i]).name,
            "error": table.error[i],
            "width": int(table.width[i]),
            "height": int(table.height[i]),
            "bytes": int(table.nbytes[i]),
            **{f"member_{n}": float(v) if ok else None for n, v in zip(names, table.members[i], strict=True)},
        }


def export(table: ScoreTable, path: str | os.PathLike[str]) -> None:
    """Write a table as .csv, .jsonl or .parquet (needs pyarrow), by the name's ending; atomically.

    Raises:
        UsageError: another ending.
        MetaqapError: pyarrow is missing, or the file cannot be written.
    """
    path = Path(path)
    writers = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise UsageError(f"cannot export to {path.name}: the name must end in {', '.join(writers)}")
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(partial, "wb") as file:
            writer(table, file)
        partial.replace(path)
    except OSError as error:
        raise MetaqapError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)


def _write_csv(table: ScoreTable, file: IO[bytes]) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    rows = list(records(table))
    columns = list(rows[0]) if rows else ["path", "score", "uncertainty", "status", "error"]
    out = csv.DictWriter(text, columns)
    out.writeheader()
    out.writerows(rows)
    text.detach()


def _write_jsonl(table: ScoreTable, file: IO[bytes]) -> None:
    for record in records(table):
        file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")


def _write_parquet(table: ScoreTable, file: IO[bytes]) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MetaqapError("parquet needs pyarrow: pip install 'metaqap-fast[parquet]'") from None
    rows = list(records(table))
    metadata = {name: json.dumps(value) for name, value in table.attributes.items()}
    pq.write_table(pa.Table.from_pylist(rows).replace_schema_metadata(metadata), file)
