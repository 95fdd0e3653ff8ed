"""A source listed once, ahead of whoever scores it, so that its size is known early."""

from __future__ import annotations

import threading
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

from metaqap_fast.errors import UsageError
from metaqap_fast.input.chosen import Part
from metaqap_fast.input.files import File
from metaqap_fast.input.source import Source
from metaqap_fast.records import Entry

BLOCK = 1000  # entries that are handed over together
FILES_AHEAD = 20_000_000  # packed, a million take some 10 MB
OTHERS_AHEAD = 100_000
KEPT_AHEAD = 16 << 20  # bytes, see `Entry.kept`


class Ahead(Part):
    """A source's entries in their order, listed by a thread that runs ahead. A `Source` that can be iterated once.

    A network mount is listed once this way, where counting it first would list it twice.

    Args:
        source: what is listed; it starts at once.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._changed = threading.Condition()
        self._blocks: deque[Sequence[Entry] | bytes] = deque()
        self._waiting = 0  # entries in them
        self._kept = 0  # bytes of theirs
        self._error: BaseException | None = None
        self._closed = False
        self.found = 0  # entries so far
        self.complete = False  # nothing else will be found
        threading.Thread(target=self._list, name="listing", daemon=True).start()

    @property
    def total(self) -> int | None:
        """How many entries there are; None until that is known."""
        return self.found if self.complete else None

    def few(self, count: int, seconds: float = 1.0) -> bool:
        """Whether there are fewer entries than this, as far as it is known after so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self.found >= count or self.complete, seconds)
            return self.complete and self.found < count

    def check(self) -> None:
        """Wait until there is an entry.

        Raises:
            UsageError: there is none.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.found or self.complete)
            if self._error is not None and not self.found:
                raise self._error
            if not self.found:
                counts = "".join(f"; left out: {kind} ({count})" for kind, count in self.left_out.items())
                raise UsageError(f"no image found in {', '.join(self.sources)}{counts}")

    def __iter__(self) -> Iterator[Entry]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._blocks or self.complete)
                if not self._blocks:
                    if self._error is not None:
                        raise self._error
                    return
                block = _unpacked(self._blocks.popleft())
                self._waiting -= len(block)
                self._kept -= sum(entry.kept for entry in block)
                self._changed.notify_all()
            yield from block

    def close(self) -> None:
        """End the thread, soon."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _list(self) -> None:
        try:
            entries, size = iter(self._source), 1
            while block := _block(entries, size):
                packed = _packed(block)
                most = FILES_AHEAD if isinstance(packed, bytes) else OTHERS_AHEAD
                kept = sum(entry.kept for entry in block)
                with self._changed:
                    while (self._waiting >= most or self._kept >= KEPT_AHEAD) and not self._closed:
                        self._changed.wait()
                    if self._closed:
                        return
                    self._blocks.append(packed)
                    self._waiting += len(block)
                    self._kept += kept
                    self.found += len(block)
                    self._changed.notify_all()
                size = min(BLOCK, 2 * size)  # the first score does not wait for a thousand names
        except BaseException as error:  # noqa: BLE001 -- raised again where the entries are wanted
            self._error = error
        finally:
            with self._changed:
                self.complete = True
                self._changed.notify_all()


def _block(entries: Iterator[Entry], size: int) -> Sequence[Entry]:
    """The next ones: fewer where what they keep would be much."""
    block, kept = [], 0
    for entry in islice(entries, size):
        block.append(entry)
        kept += entry.kept
        if kept > KEPT_AHEAD // 8:
            break
    return block


def _packed(block: Sequence[Entry]) -> Sequence[Entry] | bytes:
    """Files as text, compressed: neighbours share most of their names."""
    if not all(isinstance(entry, File) for entry in block):
        return block
    names = [name for entry in block if isinstance(entry, File) for name in (entry.key, entry.path)]
    return zlib.compress(b"\0".join(names), 1)


def _unpacked(block: Sequence[Entry] | bytes) -> Sequence[Entry]:
    if not isinstance(block, bytes):
        return block
    names = iter(zlib.decompress(block).split(b"\0"))
    return [File(key, path) for key, path in zip(names, names, strict=True)]
