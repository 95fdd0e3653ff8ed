"""One of n shares of a source, for runs that know nothing of each other."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b

from metaqap_fast.input import Source
from metaqap_fast.input.chosen import Part
from metaqap_fast.input.files import Listing
from metaqap_fast.records import Entry


class Share(Part):
    """The entries of share `index` (from 0) of `count`: a `Source`. All shares together are the source, none twice.

    The share of a file depends on its key alone, so that it stays in its share when others come and go. An archive or a
    table is in one share as a whole, and in the others it is not opened.
    """

    def __init__(self, source: Source, index: int, count: int) -> None:
        super().__init__(source)
        self._index, self._count = index, count

    def __iter__(self) -> Iterator[Entry]:
        if isinstance(self._source, Listing):
            return self._source.share(self._is_mine)
        return (entry for entry in self._source if self._is_mine(entry.key))

    def _is_mine(self, key: bytes) -> bool:
        return share_of(key, self._count) == self._index


def share_of(key: bytes, count: int) -> int:
    """Which of `count` shares a file or an archive is in."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big") % count
