"""Images in files: folders, files, globs and lists become sorted keys, and keys become bytes.

A key is the image's path as bytes, as found under its source and relative to it. Keys are ordered component
by component, so a folder can be listed in order without holding the whole tree: `a/b` stands where `a` does.
"""

from __future__ import annotations

import glob
import heapq
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice

from metaqap_fast.errors import ImageError, Status, UsageError
from metaqap_fast.formats import EXTENSIONS
from metaqap_fast.input.source import Kind, merged
from metaqap_fast.records import key_order

RUN = 50_000  # names sorted at once
BLOCK = 1 << 20  # bytes of a list read at once


_NAME = re.compile(rb"[^\0]+")


@dataclass(frozen=True, slots=True)
class File:
    """An `Entry`: a file of its own."""

    key: bytes
    path: bytes

    def read(self, max_bytes: int, ahead_bytes: int) -> bytes | None:
        """See `Entry.read`. Never blocks on a FIFO or device."""
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
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


class Listing:
    """The sorted, duplicate-free entries of one or more sources: a `Source`.

    A source is a folder (recursive; files with an image extension, the rest is counted in `skipped`), a
    file, a glob pattern (`**` is recursive) or `@list.txt` (`@-` for standard input): one path per line, or
    NUL-separated. Whatever is named, rather than found in a folder, is always an entry. With one folder,
    and no other source (`alone`), the keys are relative to it; otherwise they are the paths as given.

    Raises:
        UsageError: a source that does not exist, a pattern that matches nothing, an unreadable list.
    """

    def __init__(self, sources: Sequence[str | os.PathLike[str]], alone: bool = True) -> None:
        self.sources = [os.fsdecode(source) for source in sources]
        self.skipped = 0
        self._named: list[Iterable[File]] = []  # sorted
        self._folders: list[tuple[bytes, bytes]] = []  # (path, key prefix)
        files: list[bytes] = []
        for source in self.sources:
            self._add(source, files)
        self._named.append(_Named(files, _entry))
        if alone and len(self.sources) == 1 and self._folders:
            self._folders = [(self._folders[0][0], b"")]

    def _add(self, source: str, files: list[bytes]) -> None:
        if source.startswith("@") and not os.path.lexists(source):
            self._named.append(_Named(_read_list(source[1:]), lambda name: File(name, name)))
        elif os.path.isdir(source):
            path = os.fsencode(source)
            self._folders.append((path, os.path.normpath(path)))
        elif os.path.lexists(source):
            files.append(os.fsencode(source))
        elif glob.has_magic(source):
            names = (os.fsencode(name) for name in glob.iglob(source, recursive=True) if not os.path.isdir(name))
            found = _Named(names, _entry)
            if not found:
                raise UsageError(f"no file matches {source!r}")
            self._named.append(found)
        else:
            raise UsageError(f"no such file or folder: {source}")

    def __iter__(self) -> Iterator[File]:
        self.skipped = 0
        return merged([*self._named, *(self._walk(path, prefix, frozenset()) for path, prefix in self._folders)])

    def _walk(self, folder: bytes, prefix: bytes, above: frozenset[tuple[int, int]]) -> Iterator[File]:
        try:
            here = os.stat(folder)
            if (here.st_dev, here.st_ino) in above:  # a link back to a folder that we are inside of
                self.skipped += 1
                return
            found = Sorted(self._scan(folder))
        except OSError as error:
            # A folder that cannot be listed must not vanish without a trace: it is one failed row.
            if not prefix:
                raise UsageError(f"cannot list {os.fsdecode(folder)}: {error.strerror}") from None
            yield File(prefix, folder)
            return
        above |= {(here.st_dev, here.st_ino)}
        for name in found:
            key = os.path.join(prefix, name) if prefix else name
            path = os.path.join(folder, name)
            if name.endswith(b"/"):
                yield from self._walk(path[:-1], key[:-1], above)
            else:
                yield File(key, path)

    def _scan(self, folder: bytes) -> Iterator[bytes]:
        """Names of images, and of folders with a slash behind them."""
        with os.scandir(folder) as scan:
            for entry in scan:
                name = entry.name
                if entry.is_dir():
                    yield name + b"/"
                elif name[name.rfind(b".", 1) :].lower() in EXTENSIONS:
                    yield name
                else:
                    self.skipped += 1


class _Named:
    """Names as entries, in the order of their keys."""

    def __init__(self, names: Iterable[bytes], entry: Callable[[bytes], File]) -> None:
        self._names, self._entry = Sorted(names, lambda name: key_order(entry(name).key)), entry

    def __iter__(self) -> Iterator[File]:
        return map(self._entry, self._names)

    def __bool__(self) -> bool:
        return bool(self._names)


class Sorted:
    """Names in order, in little more memory than they are long: a million names need not be a million objects.

    Sorted runs are joined, and merged when iterated.
    """

    def __init__(self, names: Iterable[bytes], order: Callable[[bytes], bytes] | None = None) -> None:
        self._order = order or key_order
        self._runs: list[bytes] = []
        names = iter(names)
        while run := list(islice(names, RUN)):
            run.sort(key=self._order)
            self._runs.append(b"\0".join(run))

    def __bool__(self) -> bool:
        return bool(self._runs)

    def __iter__(self) -> Iterator[bytes]:
        runs = [(match.group() for match in _NAME.finditer(run)) for run in self._runs]
        return runs[0] if len(runs) == 1 else heapq.merge(*runs, key=self._order)


def _entry(path: bytes) -> File:
    return File(os.path.normpath(path), path)


def _read_list(name: str) -> Iterator[bytes]:
    try:
        with nullcontext(sys.stdin.buffer) if name == "-" else open(name, "rb") as file:
            block, rest, named = file.read(BLOCK), b"", False
            separator, other = (b"\0", b"") if b"\0" in block else (b"\n", b"\0")
            while block or rest:
                if other and other in block:
                    raise UsageError(f"the list {name} has names that end in newlines and names that end in NUL")
                *names, rest = (rest + block).split(separator) if block else (rest, b"")
                for line in names:
                    if line := line.rstrip(b"\r"):
                        named = True
                        yield line
                block = file.read(BLOCK)
    except OSError as error:
        raise UsageError(f"cannot read the list {name}: {error.strerror}") from None
    if not named:
        raise UsageError(f"the list {name} names no image")


KIND = Kind(lambda name: True, Listing)
