"""One scoring run: a source through the scorer into a store, and what came of it."""

from __future__ import annotations

import heapq
import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from typing import Any

from metaqap_fast import __version__
from metaqap_fast.errors import Status
from metaqap_fast.input import Source
from metaqap_fast.options import ROWS_PER_PART, OutputMode
from metaqap_fast.records import Row
from metaqap_fast.scorer import Scorer
from metaqap_fast.scores.store import Store
from metaqap_fast.signals import Interrupts
from metaqap_fast.trace import Trace

EXTREMES = 5


@dataclass(slots=True)
class Summary:
    """Counts and extremes of a run. `done` rows were there already; `seconds` is the scoring alone."""

    output: str
    done: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    seconds: float = 0.0
    worst: list[tuple[float, str]] = field(default_factory=list)  # (-score, path), a heap
    best: list[tuple[float, str]] = field(default_factory=list)

    @property
    def images(self) -> int:
        """Images that this run made a row for."""
        return sum(self.statuses.values())

    @property
    def scored(self) -> int:
        """Those with a score."""
        return self.statuses[Status.ok.name]

    @property
    def failed(self) -> int:
        """Those without."""
        return self.images - self.scored

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds if self.seconds else 0.0

    def take(self, row: Row) -> None:
        """Count a row."""
        self.statuses[row.status.name] += 1
        if row.status != Status.ok:
            return
        path = row.key.decode(errors="backslashreplace")
        for heap, sign in ((self.worst, -1), (self.best, 1)):
            (heapq.heappush if len(heap) < EXTREMES else heapq.heappushpop)(heap, (sign * row.score, path))

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "output": self.output,
            "images": self.images,
            "scored": self.scored,
            "failed": {name: n for name, n in sorted(self.statuses.items()) if name != Status.ok.name},
            "resumed_rows": self.done,
            "skipped_files": self.skipped,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.rate, 2),
            "worst": [{"path": path, "score": round(-s, 4)} for s, path in sorted(self.worst, reverse=True)],
            "best": [{"path": path, "score": round(s, 4)} for s, path in sorted(self.best, reverse=True)],
        }


def run(
    scorer: Scorer,
    source: Source,
    output: str | os.PathLike[str],
    mode: OutputMode = "new",
    on_row: Callable[[Summary], None] = lambda _: None,
    trace: Trace | None = None,
    rows_per_part: int = ROWS_PER_PART,
    retry_failed: bool = False,
    stopped: Callable[[BaseException], None] = lambda _: None,
) -> Summary:
    """Score a source into a file.

    A signal (SIGINT, SIGTERM) or a failure commits every row that is ready before it goes on its way as an
    exception; `mode="resume"` continues from there. `stopped` is called in between, and may end the process.
    `trace` gets the time of each stage, however the run ends otherwise.

    Raises:
        UsageError, MetaqapError: see `Store`.
    """
    attributes = {"program_version": __version__, "source": list(source.sources), **scorer.describe()}
    store = Store(output, attributes, mode, rows_per_part, retry_failed=retry_failed)
    summary = Summary(os.fspath(output), done=len(store.done))
    start = time.monotonic()

    def save(error: BaseException) -> None:
        store.commit()
        stopped(error)

    try:
        entries = (entry for entry in source if entry.key not in store.done)
        with closing(scorer.stream(entries, trace)) as rows, Interrupts(save) as interrupts:
            try:
                for row in interrupts.waiting(rows):
                    with trace.span("write") if trace else nullcontext():
                        store.add(row)
                    summary.take(row)
                    summary.seconds = time.monotonic() - start
                    on_row(summary)
                store.commit()
            except BaseException as error:
                if error is not interrupts.raised:
                    save(error)
                raise
        summary.skipped = source.skipped
        with trace.span("merge") if trace else nullcontext():
            store.finish()
    finally:
        store.close()
        if trace:
            trace.write()
    return summary
