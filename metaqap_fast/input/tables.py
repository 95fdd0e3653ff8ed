"""Tables with a column of images: parquet, and the arrow files of Hugging Face datasets.

A column of images holds bytes, or structs {bytes, path} as Hugging Face writes them. Rows are decoded in order, a batch
at a time, and only those that somebody reads; the last batches stay for readers that are a little behind.
"""

from __future__ import annotations

import importlib
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from metaqap_fast.errors import ImageError, MetaqapError, Status, UsageError
from metaqap_fast.input.data import Data, LocalData, Recent, Stream
from metaqap_fast.input.members import Kind, Names, NoImages, Options, check_size
from metaqap_fast.records import Entry, Stamp

BATCH = 4 << 20  # bytes decoded at once, about
WINDOW, ROWS = 64 << 20, 256  # bytes and rows that stay once they are decoded: more readers are never behind
PASSES = 2  # one for most readers, one for those that are far behind
BUFFER = 1 << 20  # bytes read at once
OPEN = Recent(4)

Batches = Iterator[tuple[int, Any]]  # (number of the first row, its column of images)


@dataclass(frozen=True, slots=True)
class TableRow:
    """An `Entry`: a row of a table."""

    key: bytes
    table: _Table
    row: int
    kept = 0

    @property
    def distant(self) -> bool:
        """See `Entry.distant`."""
        return self.table.data.distant

    def stamp(self) -> Stamp:
        """The version of the table: its rows say nothing of themselves."""
        return Stamp(-1, self.table.data.stamp().version)

    def read(self, max_bytes: int, ahead_bytes: int) -> bytes | None:
        """See `Entry.read`."""
        try:
            found = self.table.image(self.row)
        except ImageError:
            raise
        except Exception as error:  # noqa: BLE001 -- pyarrow has many
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ImageError(Status.unreadable, f"the table cannot be read there: {reason}") from None
        if found is None:
            raise ImageError(Status.unreadable, "the row holds no image: it is null")
        check_size(len(found), max_bytes)
        return found


class _Table:
    """Images of a table by their row. `begin` opens it for batches from a row on, or from some row before."""

    def __init__(self, data: Data, begin: Callable[[int], Batches]) -> None:
        self.data, self._begin = data, begin
        self._lock = threading.Lock()
        self._passes: list[_Pass] = []  # the one used last is the last

    def image(self, row: int) -> bytes | None:
        """None where there is none."""
        OPEN.use(self)
        with self._lock:
            usable = [each for each in self._passes if each.start <= row]
            if usable:
                try:
                    return self._by(max(usable, key=lambda each: each.start), row)
                except Exception:  # noqa: BLE001 -- pyarrow has many
                    pass  # The damage may lie on the way to the row. A pass that starts there says whether it does.
            return self._by(self._next_pass(row), row)

    def _by(self, one: _Pass, row: int) -> bytes | None:
        self._passes.remove(one)
        self._passes.append(one)
        try:
            return one.image(row)
        finally:
            if one.ended:  # by damage: what lies behind it may be sound
                self._passes.remove(one)

    def let_go(self) -> None:
        """See `Held.let_go`."""
        with self._lock:
            self._passes.clear()

    def _next_pass(self, row: int) -> _Pass:
        if len(self._passes) >= PASSES:
            self._passes.pop(0)
        self._passes.append(_Pass(self._begin, row))
        return self._passes[-1]


class _Pass:
    """Batches in order, of which the last stay. `start`: the first row that can still be had."""

    def __init__(self, begin: Callable[[int], Batches], row: int) -> None:
        self._batches = begin(row)
        self._kept: deque[tuple[int, Any]] = deque()
        self._held = 0
        self.start, self.ended = row, False

    def image(self, row: int) -> bytes | None:
        while not self._kept or self._kept[-1][0] + len(self._kept[-1][1]) <= row:
            self.ended = True
            first, images = next(self._batches, (0, None))
            self.ended = images is None
            if images is None:
                raise ImageError(Status.unreadable, f"the table ends before row {row}")
            self._kept.append((first, images))
            self._held += images.nbytes
            while len(self._kept) > 1 and (self._held > WINDOW or first - self._kept[1][0] >= ROWS):
                self._held -= self._kept.popleft()[1].nbytes
            self.start = self._kept[0][0]
        first, images = next(each for each in self._kept if row < each[0] + len(each[1]))
        found: bytes | None = images[row - first].as_py()
        return found


def parquet(data: Data, names: Names, options: Options) -> Iterator[Entry]:
    """Rows of a parquet file, read by row group."""
    arrow, lib = _library("pyarrow"), _library("pyarrow.parquet")

    def opened() -> Any:
        source = os.fsdecode(data.path) if isinstance(data, LocalData) else Stream(data)
        return lib.ParquetFile(source, buffer_size=BUFFER, pre_buffer=False)

    file = opened()
    column = _images(arrow, file.schema_arrow, options, "parquet")
    groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    rows, nbytes = sum(groups), sum(file.metadata.row_group(i).total_byte_size for i in range(len(groups)))
    size = max(1, min(1024, BATCH * rows // max(1, nbytes)))

    def begin(row: int) -> Batches:
        file, first = opened(), 0
        for group, there in enumerate(groups):
            if row < first + there:
                at = first
                for batch in file.iter_batches(size, [group], columns=[column], use_threads=False):
                    yield at, _bytes(arrow, batch.column(0))
                    at += batch.num_rows
            first += there

    def keys() -> Iterator[Any]:
        for batch in file.iter_batches(4096, columns=[options.key]):
            yield from batch.column(0).to_pylist()

    _check_key(file.schema_arrow, options)
    yield from _rows(_Table(data, begin), rows, keys() if options.key else None, names)


def arrow_file(data: Data, names: Names, options: Options) -> Iterator[Entry]:
    """Rows of an arrow file, a stream of batches as Hugging Face datasets are saved."""
    arrow = _library("pyarrow")

    def batches() -> Iterator[Any]:
        if isinstance(data, LocalData):
            source = arrow.memory_map(os.fsdecode(data.path))
        else:
            source = arrow.PythonFile(Stream(data), mode="r")
        if data.read(0, 6) == b"ARROW1":
            file = arrow.ipc.open_file(source)
            return (file.get_batch(i) for i in range(file.num_record_batches))
        return iter(arrow.ipc.open_stream(source))

    def begin(row: int) -> Batches:
        at = 0
        for batch in batches():
            if row < at + batch.num_rows:
                yield at, _bytes(arrow, batch.column(column))
            at += batch.num_rows

    table, at, column = _Table(data, begin), 0, ""
    for batch in batches():
        if not column:
            column = _images(arrow, batch.schema, options, "arrow")
            _check_key(batch.schema, options)
        keys = iter(batch.column(options.key).to_pylist()) if options.key else None
        yield from _rows(table, batch.num_rows, keys, names, at)
        at += batch.num_rows


def _rows(table: _Table, rows: int, keys: Iterator[Any] | None, names: Names, at: int = 0) -> Iterator[Entry]:
    for row in range(at, at + rows):
        key = None if keys is None else next(keys, None)
        name = b"%d" % row if key is None or key == "" else key if isinstance(key, bytes) else str(key).encode()
        yield TableRow(names.key(name), table, row)


def _images(arrow: Any, schema: Any, options: Options, kind: str) -> str:
    """Name of the column of images.

    Raises:
        NoImages: there is none, or it cannot be told which.
    """
    holding: list[str] = [field.name for field in schema if _holds_bytes(arrow, field.type)]
    if options.image:
        if options.image in holding:
            return options.image
        why = "holds no bytes" if options.image in schema.names else "is not one of its columns"
        raise NoImages(f"{kind}: {options.image!r} {why}; bytes are in: {', '.join(holding) or 'none'}")
    if not holding:
        raise NoImages(
            f"{kind}: no column of images (bytes, or struct of bytes and path) among: {', '.join(schema.names)}"
        )
    for chosen in (
        holding,
        [name for name in holding if name in _declared(schema)],
        [name for name in holding if arrow.types.is_struct(schema.field(name).type)],
    ):
        if len(chosen) == 1:
            return chosen[0]
    raise NoImages(f"{kind}: several columns hold bytes, name one of them with --image: {', '.join(holding)}")


def _holds_bytes(arrow: Any, kind: Any) -> bool:
    types = arrow.types
    if types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(arrow, field.type) for field in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _bytes(arrow: Any, column: Any) -> Any:
    """A column of bytes: a struct that is null has none."""
    return arrow.compute.struct_field(column, "bytes") if arrow.types.is_struct(column.type) else column


def _declared(schema: Any) -> list[str]:
    """Columns that Hugging Face's own description calls images."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [name for name, feature in features.items() if feature.get("_type") == "Image"]
    except (KeyError, ValueError, TypeError, AttributeError):
        return []


def _check_key(schema: Any, options: Options) -> None:
    if options.key and options.key not in schema.names:
        raise UsageError(f"no column {options.key!r} for keys; there are: {', '.join(schema.names)}")


def _library(name: str) -> Any:
    try:
        importlib.import_module("pyarrow.compute")
        return importlib.import_module(name)
    except ImportError:
        needed = "pip install 'metaqap-fast[parquet]'"
        raise MetaqapError(f"parquet and arrow files need another package: {needed}") from None


KINDS = (Kind("parquet", (b".parquet", b".pq"), parquet), Kind("arrow", (b".arrow",), arrow_file))
