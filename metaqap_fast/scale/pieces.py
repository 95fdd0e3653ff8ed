"""A source cut into pieces of work, for workers that know nothing of each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from metaqap_fast.input.files import entries_of
from metaqap_fast.input.members import Archive, Options
from metaqap_fast.input.remote import Item
from metaqap_fast.records import Entry

FILES = 1024  # in a piece, at most
EACH = 8  # pieces for each worker, at least, so that all end together
STRIDE = 64  # members of an archive that several pieces share are dealt out so many at a time


@dataclass(frozen=True, slots=True)
class Piece:
    """Some of a source: files and archives, of which every `count`th stretch of entries from `index` on counts."""

    items: Sequence[Item]
    index: int = 0
    count: int = 1


def pieces(items: Iterable[Item], workers: int) -> list[Piece]:
    """Work for so many workers."""
    items = list(items)
    files = [item for item in items if not isinstance(item, Archive)]
    archives = [item for item in items if isinstance(item, Archive)]
    size = min(FILES, max(16, -(-len(files) // (EACH * workers))))
    share = -(-EACH * workers // len(archives)) if 0 < len(archives) < EACH * workers else 1
    found = [Piece(files[start : start + size]) for start in range(0, len(files), size)]
    return found + [Piece([archive], index, share) for archive in archives for index in range(share)]


class PieceSource:
    """The entries of a piece: a `Source` of which nobody asks what was named."""

    sources: Sequence[str] = ()
    roots: Sequence[str] = ()
    root = ""

    def __init__(self, piece: Piece, options: Options) -> None:
        self._piece, self._options = piece, options
        self._counts: Counter[str] = Counter()

    @property
    def left_out(self) -> Mapping[str, int]:
        """See `Source.left_out`; of an archive that several pieces share the first one says it."""
        return {} if self._piece.index else self._counts

    def __iter__(self) -> Iterator[Entry]:
        self._counts.clear()
        for number, entry in enumerate(entries_of(self._piece.items, self._options, self._counts)):
            if number // STRIDE % self._piece.count == self._piece.index:
                yield entry
