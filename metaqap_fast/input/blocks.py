"""Bytes that come over a network: a block at a time, several blocks on the way, the latest ones kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from itertools import count

from metaqap_fast.input.data import Read
from metaqap_fast.records import Stamp

BLOCK = 4 << 20  # bytes asked for at once
AHEAD = 8  # blocks on the way, of what is read in order
KEPT = 192 << 20  # bytes, of all archives together


class Cache:
    """Blocks that are there or on the way, by archive and number; those used last stay."""

    def __init__(self, most: int) -> None:
        self.most, self._held = most, 0
        self._lock = threading.Lock()
        self._blocks: OrderedDict[tuple[int, int], tuple[Future[bytes], int]] = OrderedDict()

    def get(self, key: tuple[int, int], nbytes: int, ask: Callable[[], Future[bytes]]) -> Future[bytes]:
        """A block; asked for if it is not there."""
        with self._lock:
            if key not in self._blocks:
                self._blocks[key] = ask(), nbytes
                self._held += nbytes
                while self._held > self.most and len(self._blocks) > 1:
                    self._held -= self._blocks.popitem(last=False)[1][1]
            self._blocks.move_to_end(key)
            return self._blocks[key][0]

    def drop(self, key: tuple[int, int]) -> None:
        """Ask for it again the next time."""
        with self._lock:
            if key in self._blocks:
                self._held -= self._blocks.pop(key)[1]

    def __contains__(self, key: tuple[int, int]) -> bool:
        return key in self._blocks


CACHE = Cache(KEPT)
_numbers = count()


class Blocks:
    """A remote file: `Data`.

    Args:
        fetch: (start, stop) -> those bytes, all of them, or an OSError.
        size: in bytes.
        stamp: what the listing saw.
        pool: whose threads wait for the blocks.
    """

    distant = passing = True

    def __init__(self, fetch: Callable[[int, int], bytes], size: int, stamp: Stamp, pool: Executor) -> None:
        self._fetch, self.size, self._stamp, self._pool = fetch, size, stamp, pool
        self._number = next(_numbers)

    def stamp(self) -> Stamp:
        """See `Data.stamp`."""
        return self._stamp

    def read(self, offset: int, length: int) -> bytes:
        """See `Data.read`."""
        stop = min(offset + length, self.size)
        found = []
        for number in range(offset // BLOCK, -(-stop // BLOCK)):
            block = self._block(number)
            found.append(block[max(0, offset - number * BLOCK) : stop - number * BLOCK])
        return found[0] if len(found) == 1 else b"".join(found)

    @contextmanager
    def scan(self) -> Iterator[Read]:
        """See `Data.scan`."""
        yield self.read

    def ask(self, number: int) -> Future[bytes]:
        """A block, without waiting for it."""
        start, stop = number * BLOCK, min((number + 1) * BLOCK, self.size)
        return CACHE.get((self._number, number), stop - start, lambda: self._pool.submit(self._fetch, start, stop))

    def _block(self, number: int) -> bytes:
        in_order = number == 0 or (self._number, number - 1) in CACHE
        future = self.ask(number)
        if in_order:
            for later in range(number + 1, min(number + AHEAD, -(-self.size // BLOCK))):
                self.ask(later)
        try:
            return future.result()
        except BaseException:
            CACHE.drop((self._number, number))  # whoever asks next may have more luck
            raise
