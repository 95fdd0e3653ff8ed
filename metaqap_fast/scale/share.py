"""One of n shares of a source, for runs that know nothing of each other."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b

from metaqap_fast.input import Source
from metaqap_fast.input.chosen import Part
from metaqap_fast.records import Entry


class Share(Part):
    """The entries of share `index` (from 0) of `count`: a `Source`. All shares together are the source, none twice.

    An entry's share depends on its key alone, so that it stays in its share when others come and go.
    """

    def __init__(self, source: Source, index: int, count: int) -> None:
        super().__init__(source)
        self._index, self._count = index, count

    def __iter__(self) -> Iterator[Entry]:
        for entry in self._source:
            digest = blake2b(entry.key, digest_size=8).digest()
            if int.from_bytes(digest, "big") % self._count == self._index:
                yield entry
