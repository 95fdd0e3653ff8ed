"""What lies behind URLs, by fsspec: buckets (s3, gs), Hugging Face, web servers and whatever else fsspec knows.

What is asked for and does not come, however often, is a failed row, never a gap.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from metaqap_fast.errors import ImageError, MetaqapError, Status, UsageError
from metaqap_fast.formats import EXTENSIONS
from metaqap_fast.input.blocks import Blocks
from metaqap_fast.input.data import Data
from metaqap_fast.input.fetch import about, again, fetch, file_system, line, name_of, pool
from metaqap_fast.input.folders import File
from metaqap_fast.input.kinds import kind_of
from metaqap_fast.input.lists import read_list
from metaqap_fast.input.members import Archive, check_size
from metaqap_fast.input.objects import is_s3, page, settled
from metaqap_fast.input.places import key_of, plain
from metaqap_fast.input.source import extension, junk, left_out, walked_from
from metaqap_fast.records import Stamp, key_order

FOLDERS_AHEAD = 8  # listed before it is their turn
ARCHIVES_AHEAD = 3  # opened before it is their turn


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """An `Entry`: an object of a bucket, a file on a server. `size` is -1 and `version` empty where nobody has said."""

    key: bytes
    files: Any  # fsspec's file system
    path: str
    size: int
    version: str
    distant = True
    kept = 0

    def stamp(self) -> Stamp:
        """As it was listed."""
        return Stamp(self.size, self.version)

    def read(self, max_bytes: int, ahead_bytes: int) -> bytes | None:
        """See `Entry.read`."""
        size = self.size if self.size >= 0 else about(again(self.files, partial(self.files.info, self.path)))[0]
        if size < 0:
            raise ImageError(Status.unreadable, "the server does not say how large it is")
        check_size(size, max_bytes)
        return None if size > ahead_bytes else fetch(self.files, self.path, 0, size)


Item = File | RemoteFile | Archive


@dataclass(frozen=True, slots=True)
class Place:
    """A file or a folder behind a URL."""

    files: Any  # fsspec's file system
    path: str  # there
    info: dict[str, Any]  # what is known of it

    @property
    def address(self) -> bytes:
        """See `places`."""
        url: str = self.files.unstrip_protocol(self.path)
        return plain(url.encode(errors="surrogateescape")).rstrip(b"/")

    @property
    def is_folder(self) -> bool:
        """Whether it can be listed."""
        return self.info.get("type") == "directory"

    def item(self, key: bytes, named: bool) -> RemoteFile | Archive:
        """It as a file."""
        kind = kind_of(self.address)
        size, version = about(self.info)
        if kind is None:
            return RemoteFile(key, self.files, self.path, size, version)
        return Archive(key, kind, partial(opened, self), named, distant=True)


def early(items: Iterable[Item]) -> Iterator[Item]:
    """The items; distant archives are opened, and asked for their first bytes, a few items before it is their turn."""
    waiting: deque[Item] = deque()
    for item in items:
        if isinstance(item, Archive) and item.distant:
            item = replace(item, open=pool().submit(_started, item.open).result)
        elif not waiting:
            yield item
            continue
        waiting.append(item)
        if len(waiting) > ARCHIVES_AHEAD:
            yield waiting.popleft()
    yield from waiting


def _started(opened: Callable[[], Data]) -> Data:
    data = opened()
    if isinstance(data, Blocks) and data.size:
        data.ask(0)
    return data


def opened(place: Place) -> Blocks:
    """A remote archive. Raises `OSError` if it is not there, or nobody says how large it is."""
    size, version = about(place.info)
    if size < 0:
        size, version = about(again(place.files, partial(place.files.info, place.path)))
    if size < 0:
        raise OSError("the server does not say how large it is")
    return Blocks(partial(fetch, place.files, place.path), size, Stamp(size, version), pool())


def places(url: str) -> list[Place]:
    """What a user has named by a URL: a file, a folder, or what a pattern matches.

    Raises:
        UsageError: nothing is there, or it may not be read.
    """
    files, path = file_system(url)
    try:
        if _is_pattern(url):
            found = again(files, partial(files.glob, path, detail=True))
            if not found:
                raise UsageError(f"no file matches {name_of(url)}")
            return [Place(files, name, info) for name, info in sorted(found.items()) if not _junk(name, path)]
        if url.startswith("http") and url.endswith("/"):
            return [Place(files, path, {"type": "directory"})]
        return [Place(files, path, again(files, partial(files.info, path)))]
    except FileNotFoundError:
        raise UsageError(f"nothing is there: {name_of(url)}") from None
    except PermissionError as error:
        why = f"no permission to read {name_of(url)}: {line(error)}; credentials are those of the environment"
        raise UsageError(why) from None
    except OSError as error:
        raise MetaqapError(f"cannot read {name_of(url)}: {line(error)}") from None


def _junk(match: str, pattern: str) -> bool:
    return junk(match.encode(errors="surrogateescape"), pattern.encode(errors="surrogateescape"))


def _is_pattern(url: str) -> bool:
    magic = "*[" if url.startswith("http") else "*?["  # a question mark begins a query
    return any(letter in url for letter in magic)


class RemoteWalk:
    """What is found in a folder behind a URL: images, archives and tables, in the order of their keys."""

    def __init__(self, place: Place, key: bytes, counts: Counter[str]) -> None:
        self._place, self._key, self._counts = place, key, counts

    def __iter__(self) -> Iterator[RemoteFile | Archive]:
        return self._walk(self._place, self._key, None)

    def _walk(self, folder: Place, prefix: bytes, coming: Future[Page] | None) -> Iterator[RemoteFile | Archive]:
        inside: list[tuple[bytes, Place]] = []  # that may not be the next ones in the order of keys
        last, pages, begun = b"", _pages(folder, coming), False
        while True:
            try:
                infos, token = next(pages)
            except OSError as error:
                if begun or not prefix:
                    where = folder.address.decode(errors="backslashreplace")
                    raise MetaqapError(f"cannot list {where}: {line(error)}") from None
                yield RemoteFile(prefix, folder.files, folder.path, -1, "")  # one failed row: it must not vanish
                return
            begun = True
            for info in infos:
                place = Place(folder.files, info["name"], info)
                name = place.address.rpartition(b"/")[2]
                if place.address == folder.address or not name:  # what stands for the folder itself
                    if place.is_folder and place.path.endswith("/"):  # or the first of two slashes in a row
                        self._counts["folder without a name"] += 1
                    continue
                last = max(last, name + b"/" if place.is_folder else name)
                if why := left_out(name, place.is_folder):
                    self._counts[why] += 1
                elif place.is_folder or extension(name) in EXTENSIONS or kind_of(name) is not None:
                    inside.append((name + b"/" if place.is_folder else name, place))
                else:
                    self._counts["no image extension"] += 1
            inside.sort(key=lambda item: key_order(item[0]))
            ready = next((n for n, (name, _) in enumerate(inside) if token and not settled(name, last)), len(inside))
            for (name, place), listing in _with_listings(inside[:ready]):
                key = prefix + b"/" + name if prefix else name
                if place.is_folder:
                    yield from self._walk(place, key.rstrip(b"/"), listing)
                else:
                    yield place.item(key, False)
            del inside[:ready]
            if not token:
                return


Page = tuple[list[Any], str]  # what is known of some in a folder; a token for the next page, empty for the last one


def _page(folder: Place, token: str = "") -> Page:
    files, path = folder.files, folder.path
    if is_s3(files):
        return again(files, partial(page, files, path, token))
    return again(files, partial(files.ls, path, detail=True)), ""


def _pages(folder: Place, coming: Future[Page] | None) -> Iterator[Page]:
    """Each is asked for while the one before it is looked through."""
    coming = coming or pool().submit(_page, folder)
    while coming is not None:
        infos, token = coming.result()
        coming = pool().submit(_page, folder, token) if token else None
        yield infos, token


def _with_listings(inside: Iterable[tuple[bytes, Place]]) -> Iterator[tuple[tuple[bytes, Place], Future[Page] | None]]:
    """Each with its first page on the way, if it is a folder."""
    items = list(inside)
    folders = iter([place for _, place in items if place.is_folder])
    coming: list[Future[Page]] = []
    for item in items:
        if not item[1].is_folder:
            yield item, None
            continue
        while len(coming) < FOLDERS_AHEAD and (place := next(folders, None)) is not None:
            coming.append(pool().submit(_page, place))
        yield item, coming.pop(0)


class Remote:
    """All sources that are URLs: `named` one by one, or `listed` in lists, which are looked at only to be read."""

    def __init__(self) -> None:
        self.named: list[str] = []
        self.listed: list[bytes] = []
        self._places: list[Place] = []

    def read_list(self, name: str) -> Iterator[bytes]:
        """The names in a list that is behind a URL. Raises `UsageError` if it cannot be read."""
        (place,) = places(name)
        try:
            return read_list(name_of(name), fetch(place.files, place.path, 0, about(place.info)[0]))
        except OSError as error:
            raise UsageError(f"cannot read the list {name_of(name)}: {line(error)}") from None

    def bases(self) -> list[bytes]:
        """Folders that the root must hold: looks for everything that is named.

        Raises:
            UsageError: it is not there, or may not be read.
        """
        bases = []
        for name, found in zip(self.named, pool().map(places, self.named) if self.named else (), strict=True):
            self._places += found
            if _is_pattern(name):
                files, path = file_system(name)
                bases.append(Place(files, re.split(r"[*?\[]", path)[0] + "x", {}).address.rpartition(b"/")[0])
            bases += [place.address if place.is_folder else place.address.rpartition(b"/")[0] for place in found]
        self._places += [Place(*file_system(name.decode(errors="surrogateescape")), {}) for name in self.listed]
        bases += [place.address.rpartition(b"/")[0] for place in self._places[len(self._places) - len(self.listed) :]]
        return bases

    def streams(self, root: bytes | None, counts: Counter[str]) -> Iterator[Iterable[RemoteFile | Archive]]:
        """What is found there: streams in the order of their keys."""
        folders = {place.address: place for place in self._places if place.is_folder}
        for address, place in folders.items():
            if not walked_from(address, folders.keys()):
                yield RemoteWalk(place, key_of(address, root), counts)
        files = [place for place in self._places if not place.is_folder]
        keyed = sorted(((key_of(place.address, root), place) for place in files), key=lambda item: key_order(item[0]))
        yield (place.item(key, True) for key, place in keyed)
