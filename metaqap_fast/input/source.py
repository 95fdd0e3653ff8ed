"""What a source is, and several of them as one."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from metaqap_fast.records import Entry, key_order

E = TypeVar("E", bound=Entry)


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


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of source.

    Attributes:
        takes: whether what a user has named is a source of this kind.
        open: all names of this kind as one source, and the URL of the root for its keys, if that is given. Raises
            `UsageError` for one that does not exist or cannot be read.
    """

    takes: Callable[[str], bool]
    open: Callable[[Sequence[str], str | None], Source]


def left_out(name: bytes, is_folder: bool) -> str:
    """Why something that is found in a folder or an archive is left out, whatever it holds; empty if it is not.

    What systems and programs keep beside images is no image that anyone wants scored. What is named is never left out.
    """
    lower = name.lower()
    if lower.startswith(b".trash") or lower in TRASH:
        return "trash"
    if name in (b"@eaDir", b"__MACOSX"):
        return name.decode()
    if name.startswith(b"._"):
        return "._ file"
    if is_folder and name.startswith(b"."):
        return ".git" if name == b".git" else "hidden folder"
    return ""


TRASH = (b"$recycle.bin", b"#recycle", b"@recycle")


class Merged:
    """Sources of several kinds as one."""

    def __init__(self, parts: Sequence[Source]) -> None:
        self._parts = parts
        self.sources = [name for part in parts for name in part.sources]
        self.roots = [root for part in parts for root in part.roots]
        self.root = parts[0].root

    @property
    def left_out(self) -> Mapping[str, int]:
        """See `Source.left_out`."""
        return sum((Counter(part.left_out) for part in self._parts), Counter[str]())

    def __iter__(self) -> Iterator[Entry]:
        return merged(self._parts)


def merged(streams: Sequence[Iterable[E]]) -> Iterator[E]:
    """Sorted streams of entries as one; of entries with the same key, the first."""
    last = None
    for entry in streams[0] if len(streams) == 1 else heapq.merge(*streams, key=lambda entry: key_order(entry.key)):
        if entry.key != last:
            last = entry.key
            yield entry
