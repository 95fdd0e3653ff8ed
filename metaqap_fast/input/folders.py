"""A folder and those in it, listed in the order of keys.

Keys are ordered component by component, so a tree can be listed without holding it: `a/b` stands where `a` does.
"""

from __future__ import annotations

import heapq
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from metaqap_fast.errors import ImageError, Status, UsageError
from metaqap_fast.formats import EXTENSIONS
from metaqap_fast.input.data import LocalData
from metaqap_fast.input.kinds import kind_of
from metaqap_fast.input.members import Archive
from metaqap_fast.input.source import extension, left_out
from metaqap_fast.records import Stamp, key_order

RUN = 50_000  # names sorted at once
_NAME = re.compile(rb"[^\0]+")


@dataclass(frozen=True, slots=True)
class File:
    """An `Entry`: a file of its own."""

    key: bytes
    path: bytes
    distant = False
    kept = 0

    @property
    def local_path(self) -> bytes:
        """See `metaqap_fast.records.local_path`."""
        return self.path

    def stamp(self) -> Stamp:
        """Size and modification time as they are now."""
        try:
            info = os.stat(self.path)
        except OSError:
            return Stamp()
        return Stamp(info.st_size, str(info.st_mtime_ns))

    def read(self, max_bytes: int, ahead_bytes: int) -> bytes | None:
        """See `Entry.read`. Never blocks on a FIFO or device."""
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            if Path(os.fsdecode(self.path)).is_symlink():
                raise ImageError(Status.unreadable, "a symbolic link, and what it points to is not there") from None
            raise
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise ImageError(Status.unreadable, "not a regular file")
            if info.st_size > max_bytes:
                raise ImageError(Status.too_large, f"{info.st_size} bytes, over the limit of {max_bytes}")
            return None if info.st_size > ahead_bytes else _contents(fd, info.st_size or max_bytes)
        finally:
            os.close(fd)


def _contents(fd: int, most: int) -> bytes:
    """Up to `most` bytes of a file; in few calls, each of which hands the interpreter's lock to another thread."""
    data = os.read(fd, most)
    while len(data) < most and (more := os.read(fd, most - len(data))):
        data += more
    return data


def found(key: bytes, path: bytes, named: bool) -> File | Archive:
    """What a file is by its name."""
    kind = kind_of(path)
    return File(key, path) if kind is None else Archive(key, kind, partial(LocalData, path), named)


class Walk:
    """What is found in a folder. Args: the folder, its key, and where to count what is left out."""

    def __init__(self, folder: bytes, key: bytes, counts: Counter[str]) -> None:
        self._folder, self._key, self.left_out = folder, key, counts

    def __iter__(self) -> Iterator[File | Archive]:
        return self._walk(self._folder, self._key, frozenset())

    def _walk(self, folder: bytes, prefix: bytes, above: frozenset[tuple[int, int]]) -> Iterator[File | Archive]:
        try:
            here = os.stat(folder)
            if (here.st_dev, here.st_ino) in above:  # a link back to a folder that we are inside of
                self.left_out["link to a folder that it is in"] += 1
                return
            names = Sorted(self._scan(folder))
        except OSError as error:
            # A folder that cannot be listed must not vanish without a trace: it is one failed row.
            if not prefix:
                raise UsageError(f"cannot list {os.fsdecode(folder)}: {error.strerror}") from None
            yield File(prefix, folder)
            return
        above |= {(here.st_dev, here.st_ino)}
        keys, paths = (os.path.join(start, b"") for start in (prefix, folder))
        for name in names:
            key, path = keys + name, paths + name
            if name.endswith(b"/"):
                yield from self._walk(path[:-1], key[:-1], above)
            else:
                yield found(key, path, False)

    def _scan(self, folder: bytes) -> Iterator[bytes]:
        """Names of images, and of folders with a slash behind them."""
        with os.scandir(folder) as scan:
            for entry in scan:
                name = entry.name
                is_folder = _is_folder(entry)
                if why := left_out(name, is_folder):
                    self.left_out[why] += 1
                elif is_folder:
                    yield name + b"/"
                elif extension(name) in EXTENSIONS or kind_of(name) is not None:
                    yield name
                else:
                    self.left_out["no image extension"] += 1


class Sorted:
    """Names in order, in little more memory than they are long: a million names need not be a million objects.

    Sorted runs are joined, and merged when iterated.
    """

    def __init__(self, names: Iterable[bytes], order: Callable[[bytes], bytes] = key_order) -> None:
        self._order = order
        self._runs: list[bytes] = []
        names = iter(names)
        while run := list(islice(names, RUN)):
            run.sort(key=self._order)
            self._runs.append(b"\0".join(run))

    def __iter__(self) -> Iterator[bytes]:
        runs = [(match.group() for match in _NAME.finditer(run)) for run in self._runs]
        return runs[0] if len(runs) == 1 else heapq.merge(*runs, key=self._order)


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to where nobody may look
        return False
