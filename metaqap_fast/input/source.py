"""What a source is, and several of them as one."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    def skipped(self) -> int:
        """Files that the latest iteration has left out, because their names are not those of images."""

    def __iter__(self) -> Iterator[Entry]: ...


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of source.

    Attributes:
        takes: whether what a user has named is a source of this kind.
        open: all names of this kind as one source; the flag says whether nothing else was named. Raises `UsageError`
            for one that does not exist or cannot be read.
    """

    takes: Callable[[str], bool]
    open: Callable[[Sequence[str], bool], Source]


class Merged:
    """Sources of several kinds as one."""

    def __init__(self, parts: Sequence[Source]) -> None:
        self._parts = parts
        self.sources = [name for part in parts for name in part.sources]

    @property
    def skipped(self) -> int:
        """See `Source.skipped`."""
        return sum(part.skipped for part in self._parts)

    def __iter__(self) -> Iterator[Entry]:
        return merged(self._parts)


def merged(streams: Sequence[Iterable[E]]) -> Iterator[E]:
    """Sorted streams of entries as one; of entries with the same key, the first."""
    last = None
    for entry in streams[0] if len(streams) == 1 else heapq.merge(*streams, key=lambda entry: key_order(entry.key)):
        if entry.key != last:
            last = entry.key
            yield entry
