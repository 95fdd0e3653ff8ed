"""Archives that are compressed as a whole: decompressed as they are read, from the start to the end."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from metaqap_fast.input import tar
from metaqap_fast.input.data import Data, Read, Recent, Stream
from metaqap_fast.input.members import Damaged, Kind, Names, Options
from metaqap_fast.records import Entry, Stamp

BLOCK = 1 << 20  # bytes decompressed at once
WINDOW = 32 << 20  # that stay once they are decompressed
STREAMS = 2  # one for the listing, one for what is read
OPEN = Recent(4)
# Photographs are compressed already. What grows beyond both of these is made to fill disks and memories.
MOST, RATIO = 1 << 30, 200


class Inflated:
    """What a compressed file holds: `Data`.

    Reading back within the window costs nothing, further back another pass from the start. Two places, that of the
    listing and that of the readers behind it, have a pass each, so that neither sets the other back.
    """

    passing = True
    size = None

    def __init__(self, data: Data, opened: Callable[[io.BufferedReader], Any]) -> None:
        self._data, self._opened = data, opened
        self._lock = threading.Lock()
        self._passes: list[_Pass] = []  # the one used last is the last

    @property
    def distant(self) -> bool:
        """That of the compressed file."""
        return self._data.distant

    def stamp(self) -> Stamp:
        """That of the compressed file."""
        return self._data.stamp()

    def read(self, offset: int, length: int) -> bytes:
        """See `Data.read`."""
        OPEN.use(self)
        with self._lock:
            usable = [each for each in self._passes if each.start <= offset]
            one = max(usable, key=lambda each: each.start) if usable else self._begin()
            self._passes.remove(one)
            self._passes.append(one)
            found = bytearray()
            try:
                while len(found) < length and (piece := one.piece(offset + len(found))):
                    found += piece[: length - len(found)]
            except (EOFError, OSError, zlib.error, lzma.LZMAError):
                if not found:
                    raise
            return bytes(found)

    @contextmanager
    def scan(self) -> Iterator[Read]:
        """See `Data.scan`."""
        yield self.read

    def let_go(self) -> None:
        """See `Held.let_go`."""
        with self._lock:
            self._passes.clear()

    def _begin(self) -> _Pass:
        if len(self._passes) >= STREAMS:
            self._passes.pop(0)
        file = self._opened(io.BufferedReader(Stream(self._data), BLOCK))
        most = max(MOST, RATIO * (self._data.size or 0))
        self._passes.append(_Pass(file, most))
        return self._passes[-1]


class _Pass:
    """One pass over a compressed file, of which the last bytes are kept. `start`: where they begin."""

    def __init__(self, file: Any, most: int) -> None:
        self._file, self._most = file, most
        self._error: Exception | None = None
        self._blocks: deque[bytes] = deque()
        self._held = 0
        self.start = 0

    def piece(self, offset: int) -> memoryview:
        """Some bytes from there on; none at the end."""
        while self.start + self._held <= offset:
            block = self._next()
            if not block:
                return memoryview(b"")
            self._blocks.append(block)
            self._held += len(block)
            while self._held > WINDOW:
                self._held -= len(self._blocks[0])
                self.start += len(self._blocks.popleft())
            if self.start + self._held > self._most:
                raise Damaged(f"decompressed, it grows to more than {RATIO} times its size: the rest is not read")
        at = self.start
        for block in self._blocks:
            if offset < at + len(block):
                return memoryview(block)[offset - at :]
            at += len(block)
        raise AssertionError

    def _next(self) -> bytes:
        """The next bytes: also those before the place where the file is damaged."""
        if self._error is not None:
            raise self._error
        found = bytearray()
        try:
            while len(found) < BLOCK and (piece := self._file.read1(BLOCK - len(found))):
                found += piece
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            self._error = error
            if not found:
                raise
        return bytes(found)


def _members(opened: Callable[[Any], Any]) -> Callable[[Data, Names, Options], Iterator[Entry]]:
    return lambda data, names, options: tar.members(Inflated(data, opened), names, options)


KINDS = (
    Kind("tar.gz", (b".tar.gz", b".tgz"), _members(lambda file: gzip.GzipFile(fileobj=file))),
    Kind("tar.bz2", (b".tar.bz2", b".tbz2", b".tbz"), _members(bz2.BZ2File)),
    Kind("tar.xz", (b".tar.xz", b".txz"), _members(lzma.LZMAFile)),
)
