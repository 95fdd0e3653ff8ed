"""One scoring run: a source through the scorer into a store, and what came of it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing, nullcontext
from typing import IO, Any, Protocol

from metaqap_fast import __version__
from metaqap_fast.input import Source
from metaqap_fast.options import ROWS_PER_PART, OutputMode, Shard
from metaqap_fast.records import Entry, Row, Stamp, asked, local_path
from metaqap_fast.scorer import Scorer
from metaqap_fast.scores.claim import Claim
from metaqap_fast.scores.done import Done
from metaqap_fast.scores.lines import Lines
from metaqap_fast.scores.store import Store
from metaqap_fast.signals import Interrupts
from metaqap_fast.summary import Summary
from metaqap_fast.trace import Trace


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
        "view_size": bundle.view_size,
    }


def attributes_of(description: Mapping[str, Any], source: Source, shard: Shard | None = None) -> dict[str, Any]:
    """Root attributes of a score file, from `Scorer.describe`."""
    named = {"source": list(source.sources), "roots": list(source.roots), "root": source.root}
    return {"program_version": __version__, **named, **({"shard": str(shard)} if shard else {}), **description}


class _Stamped:
    """An entry, and what was seen of it just before it was read."""

    def __init__(self, entry: Entry) -> None:
        self.entry, self.code = entry, 0
        self.key, self.distant, self.kept = entry.key, entry.distant, entry.kept
        self.local_path = local_path(entry)

    def stamp(self) -> Stamp:
        """See `Entry.stamp`."""
        return self.entry.stamp()

    def told(self, stamp: Stamp) -> None:
        """See `metaqap_fast.records.told`."""
        self.code = stamp.code

    def ask(self, ahead_bytes: int) -> Future[bytes] | None:
        """See `asked`."""
        self.code = self.entry.stamp().code
        return asked(self.entry, ahead_bytes)

    def read(self, max_bytes: int, ahead_bytes: int) -> bytes | memoryview | None:
        """See `Entry.read`."""
        self.code = self.entry.stamp().code
        return self.entry.read(max_bytes, ahead_bytes)


def stamped(scorer: Scorer, entries: Iterable[Entry], trace: Trace | None = None) -> Generator[Row]:
    """The rows of entries, in their order, with what was seen of each before it was read: see `Row.seen`.

    A file that changes while it is read has the stamp of what it was, so that a later run scores it again.
    """
    waiting: deque[_Stamped] = deque()

    def watched() -> Iterator[Entry]:
        for entry in entries:
            waiting.append(_Stamped(entry))
            yield waiting[-1]

    with closing(scorer.stream(watched(), trace)) as rows:
        for row in rows:
            while (one := waiting.popleft()).key != row.key:
                pass
            object.__setattr__(row, "seen", one.code)  # frozen, but nobody has it yet: cheaper than another one
            yield row


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
            untraced = nullcontext()
            for row in interrupts.waiting(rows):
                with trace.span("write") if trace else untraced:
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
    output: str | os.PathLike[str] | Claim,
    mode: OutputMode = "new",
    on_row: Callable[[Summary], None] = lambda _: None,
    trace: Trace | None = None,
    rows_per_part: int = ROWS_PER_PART,
    retry_failed: bool = False,
    prune: bool = False,
    moved: bool = False,
    shard: Shard | None = None,
    stopped: Callable[[BaseException], None] = lambda _: None,
    summary: Summary | None = None,
) -> Summary:
    """Score a source into a file.

    A signal (SIGINT, SIGTERM, SIGHUP) or a failure commits every row that is ready before it goes on its way as an
    exception; `mode="resume"` continues from there. `stopped` is called in between, and may end the process.

    Args:
        scorer, source: what scores, and what is scored.
        output: the file to make, or the claim to it, whose mode it is then.
        mode: see `Store`.
        on_row: called after every row.
        trace: gets the time of each stage, however the run ends otherwise.
        rows_per_part: see `Store`.
        retry_failed: score those images again that failed; for `resume`.
        prune: remove the rows of images that the source does not name any more.
        moved: see `Store`.
        shard: which share of a larger source this is, to be recorded.
        stopped: see above.
        summary: to be filled; a new one by default.

    Raises:
        UsageError, MetaqapError: see `Store`.
    """
    description = scorer.describe()
    summary = summary or Summary(_name(output))
    summary.about = description
    store = Store(output, attributes_of(description, source, shard), mode, rows_per_part, moved=moved)
    try:
        summary.resumed(store.done, store.totals)
        rows = stamped(scorer, summary.missing(source, store.done, retry_failed), trace)
        collect(rows, store, summary, on_row, trace, stopped)
        with trace.span("merge") if trace else nullcontext():
            finish(store, summary, source, prune)
    finally:
        store.close()
        if trace:
            trace.write()
    return summary


def run_to(
    scorer: Scorer,
    source: Source,
    file: IO[bytes],
    form: str,
    on_row: Callable[[Summary], None] = lambda _: None,
    trace: Trace | None = None,
    stopped: Callable[[BaseException], None] = lambda _: None,
    summary: Summary | None = None,
) -> Summary:
    """Score a source and write the rows as they come, `form` .csv or .jsonl; nothing is kept. Otherwise as `run`."""
    summary = summary or Summary("-")
    summary.about = scorer.describe()
    lines = Lines(file, form, attributes_of(summary.about, source))
    try:
        collect(stamped(scorer, summary.missing(source, Done()), trace), lines, summary, on_row, trace, stopped)
        summary.end(source, Done())
    finally:
        if trace:
            trace.write()
    return summary


def finish(store: Store, summary: Summary, source: Source, prune: bool) -> None:
    """Make the output of a run whose source is exhausted."""
    summary.end(source, store.done)
    summary.pruned = prune and summary.gone > 0
    summary.totals = store.finish(summary.pruned) or summary.totals


def _name(output: str | os.PathLike[str] | Claim) -> str:
    return os.fspath(output.output if isinstance(output, Claim) else output)
