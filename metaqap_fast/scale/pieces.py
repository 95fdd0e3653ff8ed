"""A source cut into pieces of work, for workers that know nothing of each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from metaqap_fast.input.distant import Item
from metaqap_fast.input.files import entries_of
from metaqap_fast.input.members import Archive, Options
from metaqap_fast.records import Entry

FILES, FEWEST = 1024, 16  # in a piece, at most and, but for the last one, at least
EACH = 8  # pieces of archives for each worker, at least, so that all end together
LEFT = 4  # a piece of files is a fourth of each worker's share of what is left, and so ever smaller, for the same end
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
    share = -(-EACH * workers // len(archives)) if 0 < len(archives) < EACH * workers else 1
    found, start = list[Piece](), 0
    while start < len(files):
        size = min(FILES, max(FEWEST, -(-(len(files) - start) // (LEFT * workers))))
        found.append(Piece(files[start : start + size]))
        start += size
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
