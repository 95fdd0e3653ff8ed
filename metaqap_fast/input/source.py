"""What a source is, and several of them as one."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Protocol, TypeVar

from metaqap_fast.records import Entry, key_order


class Keyed(Protocol):
    """Something that has a key."""

    @property
    def key(self) -> bytes:
        """See `Entry.key`."""


K = TypeVar("K", bound=Keyed)


class Source(Protocol):
    """Images that can be listed: entries in the order of their keys, each key once. Iterable more than once."""

    @property
    def sources(self) -> Sequence[str]:
        """As the user named them."""

    @property
    def roots(self) -> Sequence[str]:
        """The same as absolute URLs without credentials; a list is named by its own URL."""

    @property
    def root(self) -> str:
        """URL of the folder that keys are relative to. Empty if there is none: then every key is a path or URL."""

    @property
    def left_out(self) -> Mapping[str, int]:
        """What the latest iteration has left out so far, by its kind, such as "hidden folder"."""

    def __iter__(self) -> Iterator[Entry]: ...


def extension(name: bytes) -> bytes:
    """What the name of a file ends in, in lower case and with its dot; `.jpg` alone has none."""
    return name[name.rfind(b".", name.rfind(b"/") + 2) :].lower()


def left_out(name: bytes, is_folder: bool) -> str:
    """Why something that is found in a folder or an archive is left out, whatever it holds; empty if it is not.

    What systems and programs keep beside images is no image that anyone wants scored. What is named is never left out.
    """
    if name[:1] not in _SUSPECT:
        return ""  # nearly all
    lower = name.lower()
    if lower.startswith(b".trash") or lower in TRASH:
        return "trash"
    if name in (b"@eaDir", b"__MACOSX"):
        return name.decode()
    if name.startswith(b"._"):
        return "._ file"
    if is_folder and name.startswith(b".") and name not in (b".", b".."):
        return ".git" if name == b".git" else "hidden folder"
    return ""


def junk(match: bytes, pattern: bytes) -> bool:
    """Whether wildcards have found what no walk through a folder would."""
    said, parts = pattern.split(b"/"), match.split(b"/")
    return any(left_out(part, i + 1 < len(parts)) for i, part in enumerate(parts) if part not in said)


def walked_from(folder: bytes, folders: Set[bytes]) -> bool:
    """Whether a walk through another one of the folders leads to it."""
    parts = folder.split(b"/")
    for n in range(len(parts) - 1, 0, -1):
        if left_out(parts[n], True):
            return False
        if (b"/".join(parts[:n]) or b"/") in folders:
            return True
    return False


TRASH = (b"$recycle.bin", b"#recycle", b"@recycle")
_SUSPECT = b".$#@_"  # what the name of all that is left out begins with


def merged(streams: Sequence[Iterable[K]]) -> Iterator[K]:
    """Sorted streams of entries as one; of entries with the same key, the first."""
    last = None
    for entry in streams[0] if len(streams) == 1 else heapq.merge(*streams, key=lambda entry: key_order(entry.key)):
        if entry.key != last:
            last = entry.key
            yield entry
