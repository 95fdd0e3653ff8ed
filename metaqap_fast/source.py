"""Where images come from: folders, files, globs and lists become sorted keys, and keys become bytes.

A key is the image's path as bytes, as found under its source and relative to it. Keys are ordered component
by component, so a folder can be listed in order without holding the whole tree: `a/b` stands where `a` does.
"""

from __future__ import annotations

import copy
import glob
import heapq
import os
import stat
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from metaqap_fast.errors import ImageError, Status, UsageError

EXTENSIONS = frozenset(
    b".jpg .jpeg .jpe .jfif .mpo .png .webp .tif .tiff .bmp .dib .ppm .pgm .pnm .jp2 .j2k .jpx .j2c"
    b" .gif .heic .heif .avif .jxl".split()
)
MAX_BYTES = 1 << 29  # a larger file is a row with status too_large, not an allocation


@dataclass(frozen=True, slots=True)
class Entry:
    """One image to score: its key and the file it is read from."""

    key: bytes
    path: bytes


@dataclass(frozen=True, slots=True)
class Encoded:
    """An image's bytes, or why there are none."""

    key: bytes
    data: bytes | memoryview
    error: ImageError | None = None


class Listing:
    """The sorted, duplicate-free entries of one or more sources. Iterable more than once.

    A source is a folder (recursive; files with an image extension, the rest is counted in `skipped`), a
    file, a glob pattern (`**` is recursive) or `@list.txt` (`@-` for standard input): one path per line, or
    NUL-separated. Whatever is named, rather than found in a folder, is always an entry. With one folder the
    keys are relative to it; otherwise they are the paths as given.

    Raises:
        UsageError: a source that does not exist, a pattern that matches nothing, an unreadable list.
    """

    def __init__(self, sources: Sequence[str | os.PathLike[str]]) -> None:
        if not sources:
            raise UsageError("no source given: name a folder, image files, a glob or @list.txt")
        self.sources = [os.fsdecode(source) for source in sources]
        self.skipped = 0
        self._named: list[Entry] = []
        self._folders: list[tuple[bytes, bytes]] = []  # (path, key prefix)
        for source in self.sources:
            self._add(source)
        if len(self.sources) == 1 and self._folders:
            self._folders = [(self._folders[0][0], b"")]
        self._named.sort(key=_order)

    def _add(self, source: str) -> None:
        if source.startswith("@") and not os.path.lexists(source):
            self._named += [Entry(name, name) for name in _read_list(source[1:])]
        elif os.path.isdir(source):
            path = os.fsencode(source)
            self._folders.append((path, os.path.normpath(path)))
        elif os.path.lexists(source):
            self._named.append(_entry(os.fsencode(source)))
        elif glob.has_magic(source):
            found = glob.glob(source, recursive=True)
            if not found:
                raise UsageError(f"no file matches {source!r}")
            self._named += [_entry(os.fsencode(name)) for name in found if not os.path.isdir(name)]
        else:
            raise UsageError(f"no such file or folder: {source}")

    def __iter__(self) -> Iterator[Entry]:
        self.skipped = 0
        streams: list[Iterable[Entry]] = [self._named]
        streams += [self._walk(path, prefix, frozenset()) for path, prefix in self._folders]
        last = None
        for entry in heapq.merge(*streams, key=_order):
            if entry.key != last:
                last = entry.key
                yield entry

    def first(self) -> Entry:
        """The first entry.

        Raises:
            UsageError: there is none.
        """
        for entry in copy.copy(self):  # a copy: `skipped` of this listing is left alone
            return entry
        raise UsageError(f"no image found in {', '.join(self.sources)}")

    def count(self) -> int:
        """Number of entries; lists everything."""
        return sum(1 for _ in copy.copy(self))

    def _walk(self, folder: bytes, prefix: bytes, above: frozenset[tuple[int, int]]) -> Iterator[Entry]:
        try:
            here = os.stat(folder)
            if (here.st_dev, here.st_ino) in above:  # a link back to a folder that we are inside of
                self.skipped += 1
                return
            with os.scandir(folder) as scan:
                found = sorted((e.name, e.is_dir()) for e in scan)
        except OSError as error:
            # A folder that cannot be listed must not vanish without a trace: it is one failed row.
            if not prefix:
                raise UsageError(f"cannot list {os.fsdecode(folder)}: {error.strerror}") from None
            yield Entry(prefix, folder)
            return
        above |= {(here.st_dev, here.st_ino)}
        for name, is_dir in found:
            path = os.path.join(folder, name)
            key = os.path.join(prefix, name) if prefix else name
            if is_dir:
                yield from self._walk(path, key, above)
            elif os.path.splitext(name)[1].lower() in EXTENSIONS:
                yield Entry(key, path)
            else:
                self.skipped += 1


def _entry(path: bytes) -> Entry:
    return Entry(os.path.normpath(path), path)


def _order(entry: Entry) -> bytes:
    return key_order(entry.key)


def key_order(key: bytes) -> bytes:
    """Sort key of an image key: compares as the list of its path components does, in a third of the memory."""
    return key.replace(b"/", b"\0")


def _read_list(name: str) -> list[bytes]:
    try:
        data = sys.stdin.buffer.read() if name == "-" else open(name, "rb").read()
    except OSError as error:
        raise UsageError(f"cannot read the list {name}: {error.strerror}") from None
    lines = data.split(b"\0" if b"\0" in data else b"\n")
    names = [line.rstrip(b"\r") for line in lines]
    names = [name for name in names if name]
    if not names:
        raise UsageError(f"the list {name} names no image")
    return names


def read_bytes(entry: Entry, max_bytes: int = MAX_BYTES) -> Encoded:
    """Read one file. Never raises for a bad file and never blocks on a FIFO or device."""
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        fd = os.open(entry.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise ImageError(Status.unreadable, "not a regular file")
            if info.st_size > max_bytes:
                raise ImageError(Status.too_large, f"{info.st_size} bytes, over the limit of {max_bytes}")
            return Encoded(entry.key, file.read(max_bytes))
    except ImageError as error:
        return Encoded(entry.key, b"", error)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Encoded(entry.key, b"", ImageError(Status.unreadable, reason))


def read_all(entries: Iterable[Entry], ahead: int = 16, max_bytes: int = MAX_BYTES) -> Iterator[Encoded]:
    """Read entries in order, up to `ahead` files at a time (latency of disks and network mounts overlaps)."""
    with ThreadPoolExecutor(min(ahead, 8), thread_name_prefix="read") as pool:
        waiting: deque[Future[Encoded]] = deque()
        try:
            for entry in entries:
                waiting.append(pool.submit(read_bytes, entry, max_bytes))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
