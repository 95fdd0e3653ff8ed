"""One scoring run: a source through the scorer into a store, and what came of it."""

from __future__ import annotations

import heapq
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from metaqap_fast import __version__
from metaqap_fast.errors import Status
from metaqap_fast.input import Source
from metaqap_fast.options import ROWS_PER_PART, OutputMode
from metaqap_fast.records import Entry, Row
from metaqap_fast.scorer import Scorer
from metaqap_fast.scores.merge import KeySet
from metaqap_fast.scores.store import Store
from metaqap_fast.signals import Interrupts
from metaqap_fast.trace import Trace

EXTREMES = 5


@dataclass(slots=True)
class Summary:
    """What has come of a run so far; it counts from when it is made.

    Attributes:
        output: the score file.
        done: rows that were there already.
        passed: how many of those the source has named so far.
        skipped: files that the source left out.
        statuses: images by the name of their status.
        seconds: until the latest row.
    """

    output: str = ""
    done: int = 0
    passed: int = 0
    skipped: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    _worst: list[tuple[float, str]] = field(default_factory=list)  # (-score, path), a heap
    _best: list[tuple[float, str]] = field(default_factory=list)  # (score, path)
    _start: float = field(default_factory=lambda: time.monotonic())

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

    @property
    def worst(self) -> list[tuple[float, str]]:
        """Score and path of the worst images, the worst first; no image is among the best too."""
        return [(-score, path) for score, path in sorted(self._worst, reverse=True)][: max(1, self.scored // 2)]

    @property
    def best(self) -> list[tuple[float, str]]:
        """Score and path of the best images, the best first."""
        return sorted(self._best, reverse=True)[: self.scored // 2]

    def missing(self, entries: Iterable[Entry], done: KeySet) -> Iterator[Entry]:
        """The entries that have no row yet."""
        for entry in entries:
            if entry.key in done:
                self.passed += 1
            else:
                yield entry

    def take(self, row: Row) -> None:
        """Count a row."""
        self.seconds = time.monotonic() - self._start
        self.statuses[row.status.name] += 1
        if row.status != Status.ok:
            return
        path = row.key.decode(errors="backslashreplace")
        for heap, sign in ((self._worst, -1), (self._best, 1)):
            (heapq.heappush if len(heap) < EXTREMES else heapq.heappushpop)(heap, (sign * row.score, path))

    def counts(self) -> dict[str, Any]:
        """What another process is told, see `join`."""
        return {"statuses": dict(self.statuses), "worst": self._worst, "best": self._best}

    def join(self, others: Iterable[Mapping[str, Any]]) -> None:
        """Count what the processes of a run have counted until now."""
        others = list(others)
        self.seconds = time.monotonic() - self._start
        self.statuses = sum((Counter(other["statuses"]) for other in others), Counter[str]())
        for name in ("worst", "best"):
            every = (tuple(item) for other in others for item in other[name])
            setattr(self, f"_{name}", heapq.nlargest(EXTREMES, every))

    def end(self, source: Source) -> None:
        """Take over what is known once the source is exhausted."""
        self.skipped = sum(source.left_out.values())

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        extremes = {"worst": self.worst, "best": self.best}
        return {
            "output": self.output,
            "images": self.images,
            "scored": self.scored,
            "failed": {name: n for name, n in sorted(self.statuses.items()) if name != Status.ok.name},
            "resumed_rows": self.done,
            "skipped_files": self.skipped,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.rate, 2),
            **{name: [{"path": path, "score": round(s, 4)} for s, path in found] for name, found in extremes.items()},
        }


class Sink(Protocol):
    """Where rows go: a `Store`, or the `Parts` of one process."""

    def add(self, row: Row) -> None:
        """Take a row."""

    def commit(self) -> None:
        """Make every row taken so far durable."""


def about(scorer: Scorer) -> dict[str, Any]:
    """What a user is told before a run."""
    engine, bundle = scorer.engine, scorer.bundle
    return {
        "engine": engine.name,
        "reason": engine.reason,
        "precision": engine.precision,
        "device": engine.device,
        "model": bundle.name,
        "members": len(bundle.members),
        "views": scorer.views,
        "view_size": bundle.view_size,
    }


def attributes_of(description: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """Root attributes of a score file, from `Scorer.describe`."""
    return {"program_version": __version__, "source": list(source.sources), "root": source.root, **description}


def collect(
    rows: Generator[Row],
    sink: Sink,
    summary: Summary,
    on_row: Callable[[Summary], None] = lambda _: None,
    trace: Trace | None = None,
    stopped: Callable[[BaseException], None] = lambda _: None,
) -> None:
    """Rows into a sink. A signal or a failure commits those that are ready before it goes on its way; see `run`."""

    def save(error: BaseException) -> None:
        sink.commit()
        stopped(error)

    with closing(rows), Interrupts(save) as interrupts:
        try:
            for row in interrupts.waiting(rows):
                with trace.span("write") if trace else nullcontext():
                    sink.add(row)
                summary.take(row)
                on_row(summary)
            sink.commit()
        except BaseException as error:
            if error is not interrupts.raised:
                save(error)
            raise


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

    A signal (SIGINT, SIGTERM, SIGHUP) or a failure commits every row that is ready before it goes on its way as an
    exception; `mode="resume"` continues from there. `stopped` is called in between, and may end the process.
    `trace` gets the time of each stage, however the run ends otherwise.

    Raises:
        UsageError, MetaqapError: see `Store`.
    """
    attributes = attributes_of(scorer.describe(), source)
    store = Store(output, attributes, mode, rows_per_part, retry_failed=retry_failed)
    summary = Summary(os.fspath(output), done=len(store.done))
    try:
        rows = scorer.stream(summary.missing(source, store.done), trace)
        collect(rows, store, summary, on_row, trace, stopped)
        summary.end(source)
        with trace.span("merge") if trace else nullcontext():
            store.finish()
    finally:
        store.close()
        if trace:
            trace.write()
    return summary
