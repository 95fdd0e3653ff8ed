"""SIGINT, SIGTERM and SIGHUP: first what is scored is saved, at once, then the run ends.

Python's own way, an exception in the main thread, is too slow in two places. It unwinds the stages before anyone
can save, and each waits for what its library has in hand; and while a library compiles the model, the main thread
hears nothing at all.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType, TracebackType
from typing import NoReturn, TypeVar

T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTIONS = (KeyboardInterrupt, SystemExit)  # what they become


def exception(number: int) -> BaseException:
    """What a signal becomes."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


def exit_status(stop: BaseException) -> int:
    """The exit status of a process that an interruption ends: 130, 143 or 129."""
    return stop.code if isinstance(stop, SystemExit) and isinstance(stop.code, int) else 128 + signal.SIGINT


def leave(status: int) -> NoReturn:
    """End the process at once.

    What is to be kept is on disk; to close libraries, threads and processes takes seconds, and some never come back.
    """
    os._exit(status)


@contextmanager
def handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """While entered, signals call `handler`; in another thread than the main one this does nothing.

    A SIGHUP that is ignored stays ignored: that is what nohup is for.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in ours}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    raise exception(number)


def as_exceptions() -> AbstractContextManager[None]:
    """While entered, signals are raised in the main thread, as Python does it for SIGINT."""
    return handled(_raise)


class Interrupts:
    """While entered, a signal calls `save` with its exception and raises it, at the next moment that is safe.

    Safe is only the wait in `waiting`: elsewhere the main thread is in the middle of a row. In other threads than
    the main one this does nothing.
    """

    def __init__(self, save: Callable[[BaseException], None]) -> None:
        self.raised: BaseException | None = None
        self._save, self._number, self._safe = save, 0, False
        self._handled = handled(self._came)

    def __enter__(self) -> Interrupts:
        self._handled.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handled.__exit__(None, None, None)
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
def at_once(stop: Callable[[BaseException], None]) -> Iterator[None]:
    """While entered, a signal calls `stop` in a thread: the main one may be in a library for seconds.

    For a time when there is nothing to save. `stop` is expected to end the process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)

    def watch() -> None:
        with open(read, "rb", buffering=0) as pipe:
            while number := pipe.read(1):
                if number[0] in SIGNALS:
                    stop(exception(number[0]))

    thread = threading.Thread(target=watch, daemon=True, name="interrupts")
    thread.start()
    old = signal.set_wakeup_fd(write)  # written to by the signal itself, whatever Python is waiting for
    try:
        with handled(lambda *_: None):
            yield
    finally:
        signal.set_wakeup_fd(old)
        os.close(write)
        thread.join()
