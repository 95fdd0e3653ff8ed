"""One of n shares of a source, for runs that know nothing of each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b

from metaqap_fast.input import Source
from metaqap_fast.records import Entry


class Share:
    """The entries of share `index` (from 0) of `count`: a `Source`. All shares together are the source, none twice.

    An entry's share depends on its key alone, so that it stays in its share when others come and go.
    """

    def __init__(self, source: Source, index: int, count: int) -> None:
        self._source, self._index, self._count = source, index, count

    @property
    def sources(self) -> Sequence[str]:
        """See `Source.sources`."""
        return self._source.sources

    @property
    def roots(self) -> Sequence[str]:
        """See `Source.roots`."""
        return self._source.roots

    @property
    def root(self) -> str:
        """See `Source.root`."""
        return self._source.root

    @property
    def left_out(self) -> Mapping[str, int]:
        """See `Source.left_out`; what the whole source has left out."""
        return self._source.left_out

    def __iter__(self) -> Iterator[Entry]:
        for entry in self._source:
            digest = blake2b(entry.key, digest_size=8).digest()
            if int.from_bytes(digest, "big") % self._count == self._index:
                yield entry
