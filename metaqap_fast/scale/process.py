"""One process of several that score a source; its parent is `shards`, which says what they say to each other."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from metaqap_fast import signals, streams
from metaqap_fast.errors import MetaqapError
from metaqap_fast.records import Entry

SECONDS_BETWEEN_COUNTS = 0.5


class Parent:
    """The other end: what it says by standard input, what it hears by standard output."""

    def __init__(self) -> None:
        self._hears = os.dup(1)
        os.dup2(2, 1)  # whatever a library prints is none of it
        self._says: IO[bytes] = sys.stdin.buffer
        self._lock = threading.Lock()  # rows and entries have a thread each

    def tell(self, **message: Any) -> None:
        """Say something; to a parent that is gone, nothing."""
        rest = memoryview(json.dumps(message).encode() + b"\n")
        try:
            with self._lock:
                while rest:
                    rest = rest[os.write(self._hears, rest) :]
        except OSError:
            pass  # what is asked next finds that out

    def ask(self) -> Any:
        """The next thing that it says.

        Raises:
            MetaqapError: it is gone.
        """
        line = self._says.readline()
        if not line.endswith(b"\n"):
            raise MetaqapError("the process that started this one is gone")
        return json.loads(line)


def main() -> None:
    """Score what the parent hands out, and leave."""
    parent = Parent()
    streams.guard()
    sys.stdout = sys.stderr
    with signals.as_exceptions():
        try:
            _score(parent)
            signals.leave(0)
        except MetaqapError as error:
            parent.tell(error=str(error), exit_code=error.exit_code)
            signals.leave(error.exit_code)
        except signals.INTERRUPTIONS as error:
            _stopped(error)


def _stopped(error: BaseException) -> None:
    """End at once, with everything committed: closing engine and decoder would take seconds."""
    if isinstance(error, signals.INTERRUPTIONS):
        signals.leave(signals.exit_status(error))


def _score(parent: Parent) -> None:
    order = parent.ask()
    if order["cores"] is not None:
        os.sched_setaffinity(0, order["cores"])
    with signals.at_once(_stopped):
        from metaqap_fast.input.told import heard
        from metaqap_fast.run import about, collect, stamped
        from metaqap_fast.scorer import Scorer
        from metaqap_fast.scores.parts import Parts
        from metaqap_fast.summary import Summary

        scorer = Scorer(**order["options"])

    def entries() -> Iterator[Entry]:
        parent.tell(more=True)
        while block := parent.ask():
            yield from map(heard, block)
            parent.tell(more=True)

    last = 0.0

    def report(summary: Summary) -> None:
        nonlocal last
        if time.monotonic() - last > SECONDS_BETWEEN_COUNTS:
            last = time.monotonic()
            parent.tell(counts=summary.told())

    parent.tell(ready=scorer.describe(), about=about(scorer))
    where = parent.ask()
    folder = Path(where.pop("folder"))
    try:
        parts = Parts(folder, **where, committed=lambda part: parent.tell(part=part.name), writer=str(os.getpid()))
    except OSError as error:
        raise MetaqapError(f"cannot write {folder}: {error.strerror or error}") from None
    summary = Summary()

    def stopped(error: BaseException) -> None:
        parent.tell(counts=summary.told())
        _stopped(error)

    collect(stamped(scorer, entries()), parts, summary, report, stopped=stopped)
    parent.tell(counts=summary.told(), finished=True)
    scorer.close()  # which may keep what it has compiled
