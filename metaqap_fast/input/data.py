"""Bytes of one archive or table that can be read from anywhere in it, wherever it is."""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from metaqap_fast.errors import ImageError, Status
from metaqap_fast.records import Stamp

Read = Callable[[int, int], bytes]  # (offset, length) -> that many bytes, fewer only at the end


class Data(Protocol):
    """A file, an object in a bucket, or what one of them holds once it is decompressed. Threads may share it."""

    @property
    def distant(self) -> bool:
        """Whether to read is to wait for a network."""

    @property
    def passing(self) -> bool:
        """Whether reading in order is cheap and going back is not."""

    @property
    def size(self) -> int | None:
        """In bytes; None if nobody knows before its end."""

    def stamp(self) -> Stamp:
        """What was seen of it when it was listed."""

    def read(self, offset: int, length: int) -> bytes:
        """That many bytes; fewer only at the end.

        Raises:
            OSError: it cannot be read.
        """

    def scan(self) -> AbstractContextManager[Read]:
        """The same for one thread that reads on and on."""


class LocalData:
    """A file on a disk. No handle is kept: a hundred thousand archives may be listed ahead.

    Args: its path, and what the listing saw of it: its size and modification time. None: what it is now.
    """

    distant = passing = False

    def __init__(self, path: bytes, seen: tuple[int, int] | None = None) -> None:
        self.path = path
        if seen is None:
            info = os.stat(path)
            seen = info.st_size, info.st_mtime_ns
        self.size, self.version = seen

    def stamp(self) -> Stamp:
        """See `Data.stamp`."""
        return Stamp(self.size, str(self.version))

    def read(self, offset: int, length: int) -> bytes:
        """See `Data.read`. A file that is another one than was listed is an `ImageError`."""
        fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            info = os.fstat(fd)
            if (info.st_size, info.st_mtime_ns) != (self.size, self.version):
                raise ImageError(Status.unreadable, "the archive has changed since it was listed")
            return _read(fd, offset, length)
        finally:
            os.close(fd)

    @contextmanager
    def scan(self) -> Iterator[Read]:
        """See `Data.scan`."""
        fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            yield lambda offset, length: _read(fd, offset, length)
        finally:
            os.close(fd)


def _read(fd: int, offset: int, length: int) -> bytes:
    data = os.pread(fd, length, offset)
    while len(data) < length and (more := os.pread(fd, length - len(data), offset + len(data))):
        data += more
    return data


class Stream(io.RawIOBase):
    """`Data` as a file object, for libraries that want one."""

    def __init__(self, data: Data) -> None:
        self._data, self._at = data, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """Where its size is known."""
        return self._data.size is not None

    def tell(self) -> int:
        """Bytes from the start."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of any file."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._data.size or 0}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """As of any file."""
        found = self._data.read(self._at, len(buffer))
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


class Held(Protocol):
    """Something that keeps memory or handles which it can do without."""

    def let_go(self) -> None:
        """Free them; called with no lock held, by any thread."""


class Recent:
    """What was used last may keep what it holds; the others let go."""

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, threading.Lock()
        self._used: OrderedDict[int, Held] = OrderedDict()

    def use(self, holder: Held) -> None:
        """Note that it is in use."""
        with self._lock:
            self._used[id(holder)] = holder
            self._used.move_to_end(id(holder))
            gone = [self._used.popitem(last=False)[1] for _ in range(len(self._used) - self._most)]
        for each in gone:
            each.let_go()
