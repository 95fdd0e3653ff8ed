"""What a user names becomes one sorted listing: folders, files, archives, tables, globs and lists of them."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from metaqap_fast.errors import UsageError
from metaqap_fast.formats import EXTENSIONS
from metaqap_fast.input.distant import Item, early
from metaqap_fast.input.folders import File, Sorted, Walk, found
from metaqap_fast.input.lists import TEXTS, read_list
from metaqap_fast.input.members import Archive, Options
from metaqap_fast.input.places import absolute, address_of, braces, common, inside, is_url, key_of, one_name, plain, url
from metaqap_fast.input.remote import Remote
from metaqap_fast.input.source import extension, junk, merged, walked_from
from metaqap_fast.records import Entry

__all__ = ["File", "Listing"]

_ONE_SLASH = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)


class Listing:
    """The entries of one or more sources, each key once: a `Source`.

    A source is a folder (recursive; images, archives and tables by their extension, the rest is counted in
    `left_out`), a file, a glob pattern (`**` is recursive), braces (`{000..099}`) or `@list.txt` (`@-` for standard
    input, see `lists`). Whatever is named, rather than found in a folder, is always an entry.

    A key is the path relative to the root: the deepest folder that holds everything that is named, whichever way it
    is named. Of a file this counts the folder that it is in, of a pattern the folders before the first wildcard.
    Files and archives stand in the order of their keys, members in the order of their archive.

    Args:
        sources: what the user named.
        root: URL of the root that keys shall be relative to, such as that of an earlier run; what lies elsewhere then
            has its whole path as its key.
        options: how tables are read.

    Raises:
        UsageError: a source that does not exist, a pattern that matches nothing, an unreadable list.
    """

    def __init__(
        self, sources: Sequence[str | os.PathLike[str]], root: str | None = None, options: Options | None = None
    ) -> None:
        names = [os.fsdecode(source) for source in sources]
        self.sources = [_shown(name) for name in names]
        self.roots: list[str] = []
        self.left_out: Counter[str] = Counter()
        self.options = options or Options()
        self._remote = Remote()
        self._folders: list[bytes] = []
        self._files: list[_Files] = []
        self._bases: list[bytes] = []  # folders that the root must hold
        named: dict[bytes, list[bytes]] = {}  # files by their folders
        for name in names:
            self._add(name, named)
        self._files += [_Files(folder, Sorted(files)) for folder, files in named.items()]
        self._one_name()
        self._bases += self._remote.bases()
        self._root = common(self._bases) if root is None else address_of(root)

    @property
    def root(self) -> str:
        """See `Source.root`."""
        return url(self._root)

    def _add(self, source: str, named: dict[bytes, list[bytes]]) -> None:
        name = os.fsencode(source)
        if source.startswith("@") and not os.path.lexists(source):
            if extension(name) in EXTENSIONS:
                raise UsageError(f"{source[1:]} is an image, not a list of images: leave out the @")
            self.roots.append("" if source == "@-" else url(_address(name[1:])))
            self._add_list(source[1:])
            return
        self.roots.append(url(_address(name)))
        if is_url(name):
            self._remote.named += braces(source)
            return
        for one in [source] if os.path.lexists(source) else braces(source):
            for address in map(absolute, self._matches(one)):
                if os.path.isdir(address):
                    self._folders.append(address)
                else:
                    named.setdefault(os.path.dirname(address), []).append(address)

    def _matches(self, name: str) -> Sequence[bytes]:
        path = os.fsencode(name)
        if os.path.lexists(name):
            if extension(path) in TEXTS and Path(name).is_file():
                raise UsageError(f"{name} is not an image; if it is a list of images, write @{name}")
            return [path]
        if not glob.has_magic(name):
            raise UsageError(_missing(name))
        self._bases.append(absolute(_before_wildcards(path)))
        matches = [match for match in glob.iglob(path, recursive=True) if not junk(match, path)]
        if not matches:
            raise UsageError(_refused(_before_wildcards(path)) or f"no file matches {name!r}")
        return matches

    def _add_list(self, name: str) -> None:
        base: bytes | None = None

        def files() -> Iterator[bytes]:
            nonlocal base
            for line in self._remote.read_list(name) if is_url(os.fsencode(name)) else read_list(name):
                if is_url(line):
                    self._remote.listed.append(line)
                    continue
                address = absolute(line)
                if (line.endswith(b"/") or extension(line) not in EXTENSIONS) and os.path.isdir(address):
                    self._folders.append(address)
                    continue
                folder = os.path.dirname(address)
                if base is None or not inside(folder, base):
                    base = common([folder if base is None else base, folder])
                yield address

        names = Sorted(files())
        if base is not None:
            self._files.append(_Files(base, names))

    def _one_name(self) -> None:
        """Folders that are named by several links get one name, and what lies in others of them no walk of its own."""
        names = one_name({*self._folders, *(files.folder for files in self._files)})
        self._files = [files.moved(names[files.folder]) for files in self._files]
        folders = {names[folder] for folder in self._folders}
        self._bases += [*folders, *(files.folder for files in self._files)]
        self._folders = [folder for folder in sorted(folders) if not walked_from(folder, folders)]

    def __iter__(self) -> Iterator[Entry]:
        return self.share(lambda key: True)

    def share(self, wanted: Callable[[bytes], bool]) -> Iterator[Entry]:
        """The entries of files and archives with these keys; archives with others are not even opened."""
        return entries_of((item for item in self.items() if wanted(item.key)), self.options, self.left_out)

    def items(self) -> Iterator[Item]:
        """What is found before any archive is opened: files of their own and archives, in the order of their keys."""
        self.left_out.clear()
        streams: list[Iterable[Item]] = [Walk(path, self._key(path), self.left_out) for path in self._folders]
        for files in self._files:
            if self._root is None or inside(files.folder, self._root) or not inside(self._root, files.folder):
                streams.append(map(self._file, files))
            else:  # some lie in the root, some do not: each are in the order of their keys
                streams.append(self._file(path) for path in files if inside(path, self._root))
                streams.append(self._file(path) for path in files if not inside(path, self._root))
        return merged([*streams, *self._remote.streams(self._root, self.left_out)])

    def files(self) -> Iterator[File]:
        """Images that are files of their own."""
        return (item for item in self.items() if isinstance(item, File))

    def _file(self, path: bytes) -> File | Archive:
        return found(self._key(path), path, True)

    def _key(self, path: bytes) -> bytes:
        return key_of(path, self._root)


def entries_of(items: Iterable[Item], options: Options, counts: Counter[str]) -> Iterator[Entry]:
    """The images of what was found. `counts` is told what archives hold besides, by its kind."""
    for item in early(items):
        if isinstance(item, Archive):
            yield from item.entries(options, counts)
        else:
            yield item


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


def _missing(name: str) -> str:
    """Why a name leads to nothing."""
    if why := _refused(os.fsencode(os.path.dirname(name)) or b"."):
        return why
    url = _ONE_SLASH.fullmatch(name)  # what pathlib leaves of two
    return f"no such file or folder: {name}" + (f"; a URL is written {url[1]}://{url[2]}" if url else "")


def _refused(folder: bytes) -> str:
    """Why nobody can look into a folder that is there; empty if it is not there, or one can."""
    try:
        os.stat(os.path.join(folder, b"."))
    except PermissionError as error:
        return f"cannot look into {os.fsdecode(folder)}: {error.strerror}"
    except (OSError, ValueError):
        pass
    return ""


def _address(name: bytes) -> bytes:
    return plain(name) if is_url(name) else absolute(name)


def _shown(source: str) -> str:
    """As the user named it, but for credentials."""
    at, name = source[: source.startswith("@")], source.removeprefix("@")
    return at + os.fsdecode(plain(os.fsencode(name))) if is_url(os.fsencode(name)) else source


def _before_wildcards(pattern: bytes) -> bytes:
    parts = pattern.split(b"/")
    magic = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return b"/".join(parts[:magic]) + b"/" if magic else b"."
