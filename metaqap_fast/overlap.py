"""A stage of the scorer in a thread of its own, with a bounded queue in front of its consumer."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
AHEAD_BYTES = 256 << 20  # that a stage may be ahead of the next one
LATENCY = 0.05  # seconds that an item may wait for others to be handed on with


def overlap(items: Iterable[T], depth: int, weigh: Callable[[T], int] = lambda _: 0) -> Generator[T]:
    """Run a generator in a thread of its own, at most `depth` items and `AHEAD_BYTES` ahead of its consumer.

    `weigh` says how many bytes an item holds; a heavy one waits alone. To be woken for every item costs more than many
    an item: once there is no room the thread sleeps until half of it is free, and where there is nothing the consumer
    sleeps until half of it is taken up, or an item may have waited for `LATENCY`. An exception travels to the consumer;
    closing the returned generator stops the thread and closes `items`.
    """
    changed = threading.Condition()
    ready: deque[tuple[T, int]] = deque()
    nbytes, stopped, ended = 0, False, False
    failure: BaseException | None = None

    def room() -> bool:
        return stopped or not ready or (len(ready) <= depth // 2 and nbytes <= AHEAD_BYTES // 2)

    def put(item: T) -> bool:
        nonlocal nbytes
        weight = weigh(item)
        with changed:
            if len(ready) >= depth or nbytes >= AHEAD_BYTES:
                changed.wait_for(room)
            ready.append((item, weight))
            nbytes += weight
            if not room():
                changed.notify()
            return not stopped

    def work() -> None:
        nonlocal ended, failure
        try:
            for item in items:
                if not put(item):
                    break
        except BaseException as error:  # noqa: BLE001 -- whatever it is, the consumer must see it
            failure = error
        with changed:
            ended = True
            changed.notify()
        if hasattr(items, "close"):
            items.close()

    thread = threading.Thread(target=work, daemon=True, name=f"overlap-{getattr(items, '__name__', 'stage')}")
    thread.start()
    try:
        while True:
            with changed:
                while not ready and not ended:
                    changed.wait_for(lambda: ended or not room(), LATENCY)
                if not ready:
                    break
                item, weight = ready.popleft()
                nbytes -= weight
                if room():
                    changed.notify()
            yield item
        if failure is not None:
            raise failure
    finally:
        with changed:
            stopped = True
            changed.notify()
        thread.join(timeout=5)
