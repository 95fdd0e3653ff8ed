"""Images in files: folders, files, globs and lists become sorted keys, and keys become bytes.

Keys are ordered component by component, so a folder can be listed in order without holding the whole tree: `a/b`
stands where `a` does.
"""

from __future__ import annotations

import glob
import heapq
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import islice

from metaqap_fast.errors import ImageError, Status, UsageError
from metaqap_fast.formats import EXTENSIONS
from metaqap_fast.input.lists import read_list
from metaqap_fast.input.places import absolute, address_of, common, inside, key_of, one_name, url
from metaqap_fast.input.source import Kind, left_out, merged
from metaqap_fast.records import Stamp, key_order

RUN = 50_000  # names sorted at once


_NAME = re.compile(rb"[^\0]+")


@dataclass(frozen=True, slots=True)
class File:
    """An `Entry`: a file of its own."""

    key: bytes
    path: bytes

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

    A source is a folder (recursive; files with an image extension, the rest is counted in `left_out`), a file, a glob
    pattern (`**` is recursive) or `@list.txt` (`@-` for standard input, see `lists`). Whatever is named, rather than
    found in a folder, is always an entry.

    A key is the path relative to the root: the deepest folder that holds everything that is named, whichever way it
    is named. Of a file this counts the folder that it is in, of a pattern the folders before the first wildcard.

    Args:
        sources: what the user named.
        root: URL of the root that keys shall be relative to, such as that of an earlier run; what lies elsewhere then
            has its whole path as its key.

    Raises:
        UsageError: a source that does not exist, a pattern that matches nothing, an unreadable list.
    """

    def __init__(self, sources: Sequence[str | os.PathLike[str]], root: str | None = None) -> None:
        self.sources = [os.fsdecode(source) for source in sources]
        self.roots: list[str] = []
        self.left_out: Counter[str] = Counter()
        self._folders: list[bytes] = []
        self._files: list[_Files] = []
        self._bases: list[bytes] = []  # folders that the root must hold
        named: dict[bytes, list[bytes]] = {}  # files by their folders
        for source in self.sources:
            self._add(source, named)
        self._files += [_Files(folder, Sorted(files)) for folder, files in named.items()]
        self._one_name()
        self._root = common(self._bases) if root is None else address_of(root)

    @property
    def root(self) -> str:
        """See `Source.root`."""
        return url(self._root)

    def _add(self, source: str, named: dict[bytes, list[bytes]]) -> None:
        name = os.fsencode(source)
        if source.startswith("@") and not os.path.lexists(source):
            self.roots.append("" if source == "@-" else url(absolute(name[1:])))
            self._add_list(source[1:])
            return
        found = [name]
        self.roots.append(url(absolute(name)))
        if not os.path.lexists(source):
            if not glob.has_magic(source):
                raise UsageError(f"no such file or folder: {source}")
            found = list(glob.iglob(name, recursive=True))
            if not found:
                raise UsageError(f"no file matches {source!r}")
            self._bases.append(absolute(_before_wildcards(name)))
        for address in map(absolute, found):
            if os.path.isdir(address):
                self._folders.append(address)
            else:
                named.setdefault(os.path.dirname(address), []).append(address)

    def _add_list(self, name: str) -> None:
        base: bytes | None = None

        def files() -> Iterator[bytes]:
            nonlocal base
            for line in read_list(name):
                address = absolute(line)
                if (line.endswith(b"/") or _extension(line) not in EXTENSIONS) and os.path.isdir(address):
                    self._folders.append(address)
                    continue
                folder = os.path.dirname(address)
                if base is None or not inside(folder, base):
                    base = common([folder if base is None else base, folder])
                yield address

        found = Sorted(files())
        if base is not None:
            self._files.append(_Files(base, found))

    def _one_name(self) -> None:
        """Folders that are named by several links get one name, and what lies in others of them no walk of its own."""
        names = one_name({*self._folders, *(files.folder for files in self._files)})
        self._files = [files.moved(names[files.folder]) for files in self._files]
        folders = {names[folder] for folder in self._folders}
        self._bases += [*folders, *(files.folder for files in self._files)]
        self._folders = [folder for folder in sorted(folders) if not _walked_from(folder, folders)]

    def __iter__(self) -> Iterator[File]:
        self.left_out.clear()
        streams: list[Iterable[File]] = [self._walk(path, self._key(path), frozenset()) for path in self._folders]
        for files in self._files:
            if self._root is None or inside(files.folder, self._root) or not inside(self._root, files.folder):
                streams.append(map(self._file, files))
            else:  # some lie in the root, some do not: each are in the order of their keys
                streams.append(self._file(path) for path in files if inside(path, self._root))
                streams.append(self._file(path) for path in files if not inside(path, self._root))
        return merged(streams)

    def _file(self, path: bytes) -> File:
        return File(self._key(path), path)

    def _key(self, path: bytes) -> bytes:
        return key_of(path, self._root)

    def _walk(self, folder: bytes, prefix: bytes, above: frozenset[tuple[int, int]]) -> Iterator[File]:
        try:
            here = os.stat(folder)
            if (here.st_dev, here.st_ino) in above:  # a link back to a folder that we are inside of
                self.left_out["link to a folder that it is in"] += 1
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
                is_folder = _is_folder(entry)
                if why := left_out(name, is_folder):
                    self.left_out[why] += 1
                elif is_folder:
                    yield name + b"/"
                elif _extension(name) in EXTENSIONS:
                    yield name
                else:
                    self.left_out["no image extension"] += 1


@dataclass(frozen=True, slots=True)
class _Files:
    """Files in a folder and its folders, by their paths, in the order of their keys."""

    folder: bytes
    names: Sorted
    now: bytes | None = None  # another name of the folder

    def moved(self, folder: bytes) -> _Files:
        return self if folder == self.folder else _Files(folder, self.names, self.folder)

    def __iter__(self) -> Iterator[bytes]:
        if self.now is None:
            return iter(self.names)
        return (self.folder + path[len(self.now) :] for path in self.names)


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


def _extension(name: bytes) -> bytes:
    return name[name.rfind(b".", name.rfind(b"/") + 2) :].lower()


def _walked_from(folder: bytes, folders: Set[bytes]) -> bool:
    """Whether another one of the folders leads to it."""
    parts = folder.split(b"/")
    for n in range(len(parts) - 1, 0, -1):
        if left_out(parts[n], True):
            return False
        if (b"/".join(parts[:n]) or b"/") in folders:
            return True
    return False


def _before_wildcards(pattern: bytes) -> bytes:
    parts = pattern.split(b"/")
    magic = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return b"/".join(parts[:magic]) + b"/" if magic else b"."


KIND = Kind(lambda name: True, Listing)
