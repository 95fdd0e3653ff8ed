"""A stage of the scorer in a thread of its own, with a bounded queue in front of its consumer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from threading import Condition, Thread, current_thread
from typing import Generic, TypeVar

T = TypeVar("T")
AHEAD_BYTES = 256 << 20  # that a stage may be ahead of the next one
LATENCY = 0.05  # seconds that an item may wait for others to be handed on with


class Overlap(Generic[T]):
    """An iterator run in a thread of its own, at most `depth` items and `AHEAD_BYTES` ahead of its consumer.

    `weigh` says how many bytes an item holds; a heavy one waits alone. To be woken for every item costs more than many
    an item: once there is no room the thread sleeps until half of it is free, and where there is nothing the consumer
    sleeps until half of it is taken up, or an item may have waited for `LATENCY`. An exception travels to the consumer.
    The thread runs until `items` end or `stop` is called.

    The lock is taken only to sleep and to wake. Each side counts what it has done itself, and says that it sleeps
    before it looks again whether it must: so neither can miss what the other did meanwhile.
    """

    def __init__(self, items: Iterable[T], depth: int, weigh: Callable[[T], int] = lambda _: 0) -> None:
        self._items, self._depth, self._weigh = items, depth, weigh
        self._changed = Condition()
        self._ready: deque[tuple[T, int]] = deque()
        self._bytes_put = self._bytes_taken = 0  # each is written by one side alone
        self._is_full = self._is_hungry = False  # the thread sleeps; the consumer sleeps
        self._stopped = self._ended = False
        self._failure: BaseException | None = None
        name = f"overlap-{getattr(items, '__name__', 'stage')}"
        self._thread = Thread(target=self._work, daemon=True, name=name)
        self._thread.start()

    def __iter__(self) -> Overlap[T]:
        return self

    def __next__(self) -> T:
        if not self._ready:
            self._wait_for_some()
        if self._stopped:
            raise StopIteration
        try:
            item, weight = self._ready.popleft()
        except IndexError:  # the end; or `stop` has just taken them
            failure, self._failure = self._failure, None
            if failure is None or self._stopped:
                raise StopIteration from None
            raise failure from None
        self._bytes_taken += weight
        if self._is_full and self._room():
            with self._changed:
                self._is_full = False  # woken once
                self._changed.notify_all()
        return item

    def stop(self) -> None:
        """End early, from any thread: the consumer gets no more items, the thread closes `items` and ends.

        Returns at once; the thread ends when the item that it is at work on is done.
        """
        with self._changed:
            self._stopped = True
            self._ready.clear()
            self._changed.notify_all()

    def join(self, seconds: float) -> bool:
        """Wait for the thread to end; whether it has."""
        if self._thread is not current_thread():
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def close(self) -> None:
        """`stop`, and wait a little for the thread."""
        self.stop()
        self.join(5)

    def _work(self) -> None:
        try:
            for item in self._items:
                if not self._put(item):
                    break
            if hasattr(self._items, "close"):
                self._items.close()
        except BaseException as error:  # noqa: BLE001 -- whatever it is, the consumer must see it
            self._failure = error
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _put(self, item: T) -> bool:
        if len(self._ready) >= self._depth or self._waiting() >= AHEAD_BYTES:
            with self._changed:
                self._is_full = True
                self._changed.wait_for(self._room)
        if self._stopped:
            return False
        weight = self._weigh(item)
        self._bytes_put += weight
        self._ready.append((item, weight))
        if self._is_hungry and not self._room():
            with self._changed:
                self._is_hungry = False
                self._changed.notify_all()
        return True

    def _wait_for_some(self) -> None:
        with self._changed:
            self._is_hungry = True
            while not (self._ready or self._ended or self._stopped):
                self._changed.wait_for(lambda: self._ended or self._stopped or not self._room(), LATENCY)
            self._is_hungry = False

    def _waiting(self) -> int:
        return self._bytes_put - self._bytes_taken

    def _room(self) -> bool:
        few = len(self._ready) <= self._depth // 2 and self._waiting() <= AHEAD_BYTES // 2
        return self._stopped or not self._ready or few
