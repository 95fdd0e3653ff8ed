"""SIGINT and SIGTERM: first what is scored is saved, at once, then the run ends.

Python's own way, an exception in the main thread, is too slow in two places. It unwinds the stages before anyone
can save, and each waits for what its library has in hand; and while a library compiles the model, the main thread
hears nothing at all.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def exception(number: int) -> BaseException:
    """What a signal becomes."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


class Interrupts:
    """While entered, a signal calls `save` with its exception and raises it, at the next moment that is safe.

    Safe is only the wait in `waiting`: elsewhere the main thread is in the middle of a row. In other threads than
    the main one this does nothing.
    """

    def __init__(self, save: Callable[[BaseException], None]) -> None:
        self.raised: BaseException | None = None
        self._save, self._number, self._safe = save, 0, False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._came) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if error is None:
            self._leave()

    def waiting(self, items: Iterable[T]) -> Iterator[T]:
        """The items; signals are let in while the next one is waited for."""
        iterator = iter(items)
        while True:
            self._safe = True
            self._leave()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self._safe = False
            yield item

    def _came(self, number: int, frame: FrameType | None) -> None:
        self._number = self._number or number  # a second Ctrl-C must not cost what the first one saves
        if self._safe:
            self._leave()

    def _leave(self) -> None:
        if self._number and self.raised is None:
            self._safe, self.raised = False, exception(self._number)
            self._save(self.raised)
            raise self.raised


@contextmanager
def at_once(leave: Callable[[BaseException], None]) -> Iterator[None]:
    """While entered, a signal calls `leave` in a thread: the main one may be in a library for seconds.

    For a time when there is nothing to save. `leave` is expected to end the process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)

    def watch() -> None:
        with open(read, "rb", buffering=0) as pipe:
            if number := pipe.read(1):
                leave(exception(number[0]))

    thread = threading.Thread(target=watch, daemon=True, name="interrupts")
    thread.start()
    before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    old = signal.set_wakeup_fd(write)  # written to by the signal itself, whatever Python is waiting for
    try:
        yield
    finally:
        signal.set_wakeup_fd(old)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(write)
        thread.join()
