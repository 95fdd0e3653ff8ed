"""One call at a time: which call a scorer's decoder and engine work for, whatever thread it comes from."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from metaqap_fast.errors import UsageError
from metaqap_fast.overlap import Overlap

T = TypeVar("T")
PATIENCE = 60.0  # seconds that a call waits for another one that makes no progress
LEAVING = 5.0  # seconds that a call that ends early waits for what its stages have in hand
TICK = 0.1  # seconds between two looks at a call that others wait for


class _Stopped(Exception):
    """The call has ended early; its input must not be asked for more."""


class Turn:
    """A call's hold on the scorer: its stages, the thread it was called from and the one its input is read in.

    `failure` is what the input raised. It belongs behind the rows of the images that came before it.
    """

    def __init__(self) -> None:
        self.failure: BaseException | None = None
        # Threads, not their numbers: those are given to others when they end.
        self._caller: threading.Thread = threading.current_thread()
        self._feeder: threading.Thread | None = None
        self._idle_since: float | None = None  # the caller has a row, and has not asked for the next one since
        self._left: float | None = None  # when the call ended; a stage may still be at work
        self._stages: list[Overlap[Any]] = []
        self._stopped = False

    def feed(self, items: Iterable[T]) -> Iterator[T]:
        """The call's input, for the first stage."""
        self._feeder = threading.current_thread()
        iterator = iter(items)
        while True:
            try:
                item = next(iterator)
            except StopIteration:
                return
            except BaseException as error:  # noqa: BLE001 -- whatever it is, the caller must see it
                self.failure = error
                return
            if self._stopped:
                raise _Stopped
            yield item

    def stage(self, items: Iterable[T], depth: int, weigh: Callable[[T], int] = lambda _: 0) -> Overlap[T]:
        """A stage of the call, in a thread of its own; see `Overlap`."""
        stage = Overlap(items, depth, weigh)
        self._stages.append(stage)
        if self._stopped:
            stage.stop()
        return stage

    def rest(self) -> None:
        """The caller gets a row; nobody knows when it will ask for the next."""
        self._idle_since = time.monotonic()

    def go_on(self) -> None:
        """The caller, in whichever thread it is now, asks for the next row."""
        self._idle_since, self._caller = None, threading.current_thread()

    def stop(self) -> None:
        """End the stages, from any thread: the caller gets no more rows."""
        self._stopped = True
        for stage in list(self._stages):
            stage.stop()

    def leave(self) -> None:
        """The call is over. Its turn is, when its stages have ended too: see `over`."""
        self._left = time.monotonic()
        self.stop()
        self.join()

    def join(self) -> None:
        """Wait up to LEAVING for the stages."""
        deadline = time.monotonic() + LEAVING
        for stage in self._stages:
            stage.join(max(0.0, deadline - time.monotonic()))

    @property
    def over(self) -> bool:
        """Whether nothing of the call is left."""
        return self._left is not None and all(stage.join(0) for stage in self._stages)

    def refuse(self) -> None:
        """Called by a thread that waits for this turn to be over.

        Raises:
            UsageError: it would wait for itself, or for something that may never come.
        """
        now, me = time.monotonic(), threading.current_thread()
        if self._left is not None:
            if now - self._left > PATIENCE:
                raise UsageError("an earlier call of this Scorer is still waiting for its input: use another Scorer")
        elif me is self._feeder:
            raise UsageError("this Scorer was called from the iterable that it is reading: use another Scorer there")
        elif me is self._caller:
            raise UsageError(
                "a call of this Scorer is open in this thread: read its score_stream to the end or close() it first, "
                "or use another Scorer"
            )
        elif self._idle_since is not None and now - self._idle_since > PATIENCE:
            raise UsageError(
                f"another thread holds this Scorer, and has not read its score_stream for {PATIENCE:.0f} seconds"
            )


class Turns:
    """Gives a scorer's turn to one call after another; refuses calls after the end and in a forked process."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._turn: Turn | None = None
        self._ended = False

    def check(self) -> None:
        """Raise where a call can have no turn.

        Raises:
            UsageError: after `end`, or in a process that was forked.
        """
        if os.getpid() != self._pid:
            raise UsageError("this Scorer belongs to the process that made it: make a Scorer after the fork")
        if self._ended:
            raise UsageError("this Scorer is closed: make a new one")

    @contextmanager
    def take(self) -> Iterator[Turn]:
        """Wait for the turn, and have it while entered.

        Raises:
            UsageError: see `check` and `Turn.refuse`.
        """
        self.check()
        turn = Turn()
        try:
            with self._changed:
                while self._turn is not None and not self._turn.over:
                    self._turn.refuse()
                    self._changed.wait(TICK)
                    self.check()
                self._turn = turn
            yield turn
        finally:
            if os.getpid() == self._pid:  # a forked child has none of the threads, and perhaps a lock that nobody opens
                turn.leave()
                with self._changed:
                    self._changed.notify()

    def end(self) -> bool:
        """Stop the call that has the turn, and refuse all later ones; False where that is done already.

        In a forked process it does nothing: the threads, the decoder and the engine are its parent's.
        """
        if os.getpid() != self._pid or self._ended:
            return False
        with self._changed:
            self._ended = True
            turn = self._turn
        if turn is not None:
            turn.stop()
            turn.join()
        return True
