"""What lies behind a URL: files, archives and folders there, before any of them is read.

What is asked for and does not come, however often, is a failed row, never a gap.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from metaqap_fast.errors import ImageError, Status
from metaqap_fast.input.blocks import Blocks
from metaqap_fast.input.data import Data
from metaqap_fast.input.fetch import about, again, begin, fetch, pool
from metaqap_fast.input.folders import File
from metaqap_fast.input.kinds import kind_of
from metaqap_fast.input.members import Archive, check_size
from metaqap_fast.input.places import plain
from metaqap_fast.records import Stamp

Page = tuple[list[Any], str]  # what is known of some in a folder; a token for the next page, empty for the last one
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

    def ask(self, ahead_bytes: int) -> Future[bytes] | None:
        """See `asked`."""
        return begin(self.files, self.path, self.size) if 0 < self.size <= ahead_bytes else None

    def read(self, max_bytes: int, ahead_bytes: int) -> bytes | None:
        """See `Entry.read`."""
        size = self.size if self.size >= 0 else about(again(self.files, partial(self.files.info, self.path)))[0]
        if size < 0:
            raise ImageError(Status.unreadable, "the server does not say how large it is")
        check_size(size, max_bytes)
        return None if size > ahead_bytes else fetch(self.files, self.path, 0, size)


Item = File | RemoteFile | Archive


@dataclass(frozen=True)
class Place:
    """A file or a folder behind a URL."""

    files: Any  # fsspec's file system
    path: str  # there
    info: dict[str, Any]  # what is known of it
    first: Future[Page] | None = None  # of a folder

    @cached_property
    def address(self) -> bytes:
        """See `places`."""
        url: str = self.files.unstrip_protocol(self.path)
        return plain(url.encode(errors="surrogateescape")).rstrip(b"/")

    @cached_property
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
