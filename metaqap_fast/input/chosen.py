"""Some of a source: without what is excluded, or no more than so many."""

from __future__ import annotations

import fnmatch
import heapq
import re
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b

from metaqap_fast.input.source import Source
from metaqap_fast.records import Entry, key_order


class Part:
    """A source of which not every entry is given: a `Source` that says of itself what the whole one says."""

    def __init__(self, source: Source) -> None:
        self._source = source

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
        return iter(self._source)


class Excluding(Part):
    """The entries that no pattern fits.

    Args:
        source: the whole of it.
        patterns: globs; one with a slash is for the whole key, another for its last component and for each folder on
            the way to it. `*` and `?` stand for any characters, slashes too; `[...]` for one of some.
    """

    def __init__(self, source: Source, patterns: Sequence[str]) -> None:
        super().__init__(source)
        self._whole = _any(pattern.strip("/") for pattern in patterns if "/" in pattern.strip("/"))
        self._component = _any(pattern.strip("/") for pattern in patterns if "/" not in pattern.strip("/"))
        self._count = 0

    @property
    def left_out(self) -> Mapping[str, int]:
        """See `Source.left_out`."""
        return {**self._source.left_out, **({"excluded": self._count} if self._count else {})}

    def __iter__(self) -> Iterator[Entry]:
        self._count = 0
        for entry in self._source:
            key = entry.key.decode(errors="surrogateescape")
            if self._whole.fullmatch(key) or any(map(self._component.fullmatch, key.split("/"))):
                self._count += 1
            else:
                yield entry


class Limited(Part):
    """The first `limit` entries, or as many at random.

    A sample is made of keys alone: the same `seed` chooses the same images of the same source in any order, and in a
    source that has grown nearly the same.
    """

    def __init__(self, source: Source, limit: int, seed: int | None = None) -> None:
        super().__init__(source)
        self._limit, self._seed = limit, seed

    def __iter__(self) -> Iterator[Entry]:
        if self._seed is None:
            for number, entry in enumerate(self._source, 1):
                yield entry
                if number == self._limit:
                    return
            return
        salt = b"%d" % self._seed

        def place(entry: Entry) -> bytes:
            return blake2b(entry.key, digest_size=16, key=salt).digest()

        yield from sorted(heapq.nsmallest(self._limit, self._source, key=place), key=lambda entry: key_order(entry.key))


def _any(patterns: Iterator[str]) -> re.Pattern[str]:
    joined = "|".join(map(fnmatch.translate, patterns))
    return re.compile(joined or "(?!)")
