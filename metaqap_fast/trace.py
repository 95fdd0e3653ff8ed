"""Where the time of a run goes: spans of its stages in Chrome's trace format, which Perfetto shows.

Open the file at ui.perfetto.dev: a row for each stage, a bar for each piece of work. Bars of different stages
above each other are stages in overlap.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from metaqap_fast.errors import MetaqapError

T = TypeVar("T")
MAX_EVENTS = 1_000_000  # some 100 MB of JSON; later spans are only counted


class Trace:
    """Collects spans from any thread.

    Args:
        path: the JSON file that `write` makes.

    Raises:
        MetaqapError: it could not be written, as far as can be told without touching anything.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self.path.lstat()
        except FileNotFoundError:
            pass
        except OSError as error:  # such as a name that is too long
            raise MetaqapError(f"cannot write {self.path}: {error.strerror}") from None
        if not self.path.parent.is_dir():
            raise MetaqapError(f"the trace's folder does not exist: {self.path.parent}")
        if self.path.is_dir() or not os.access(self.path.parent, os.W_OK):
            raise MetaqapError(f"cannot write {self.path}: {'a folder' if self.path.is_dir() else 'permission denied'}")
        self.dropped = 0
        self._events: list[tuple[str, int, int, int]] = []  # stage, thread, start and end in ns
        self._start = time.perf_counter_ns()

    @contextmanager
    def span(self, stage: str) -> Iterator[None]:
        """Time the block as work of a stage."""
        start = time.perf_counter_ns()
        try:
            yield
        finally:
            self._add(stage, start)

    def steps(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        """Time what a generator does for each item; not what its consumer does."""
        iterator = iter(items)
        while True:
            start = time.perf_counter_ns()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self._add(stage, start)
            yield item

    def write(self) -> None:
        """Write the file.

        Raises:
            MetaqapError: it cannot be written.
        """
        stages = sorted({stage for stage, *_ in self._events})
        events: list[dict[str, Any]] = [
            {"name": "thread_name", "ph": "M", "pid": 1, "tid": stages.index(stage) + 1, "args": {"name": stage}}
            for stage in stages
        ]
        events += [
            {
                "name": stage,
                "ph": "X",
                "pid": 1,
                "tid": stages.index(stage) + 1,
                "ts": (start - self._start) / 1000,  # microseconds
                "dur": (end - start) / 1000,
                "args": {"thread": thread},
            }
            for stage, thread, start, end in sorted(self._events, key=lambda event: event[2])
        ]
        document = {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"dropped": self.dropped}}
        try:
            self.path.write_text(json.dumps(document))
        except OSError as error:
            raise MetaqapError(f"cannot write {self.path}: {error.strerror}") from None

    def _add(self, stage: str, start: int) -> None:
        if len(self._events) >= MAX_EVENTS:
            self.dropped += 1
            return
        self._events.append((stage, threading.get_ident(), start, time.perf_counter_ns()))


def steps(trace: Trace | None, stage: str, items: Iterable[T]) -> Iterable[T]:
    """`Trace.steps`, or the items themselves without a trace."""
    return items if trace is None else trace.steps(stage, items)
