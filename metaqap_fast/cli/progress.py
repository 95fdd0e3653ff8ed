"""What a person sees: progress, summary, and the description of files. Everything on stderr but results."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from metaqap_fast.errors import MetaqapError
from metaqap_fast.streams import counted, shown

if TYPE_CHECKING:
    from metaqap_fast.input.files import Listing
    from metaqap_fast.run import Summary
    from metaqap_fast.scorer import Scorer

SECONDS_BETWEEN_LINES = 5.0


class Report:
    """Progress of one run: a bar on a terminal, a line every few seconds elsewhere, silence if asked for."""

    def __init__(self, listing: Listing, quiet: bool = False, as_json: bool = False) -> None:
        self._quiet, self._json = quiet, as_json
        self.console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._terminal = sys.stderr.isatty() and not quiet and not as_json
        self._listing = listing
        self._total: int | None = None
        self._last = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Report:
        logging.basicConfig(format="metaqap-fast: %(message)s", level=logging.WARNING)
        if not self._quiet:
            threading.Thread(target=self._count, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _count(self) -> None:
        with suppress(MetaqapError):  # the run itself will meet it too
            self._total = self._listing.count()

    def started(self, scorer: Scorer) -> None:
        """Say loudly what runs."""
        engine, model = scorer.engine, scorer.bundle
        self._say(
            f"engine [bold]{engine.name}[/] ({_escape(engine.reason)}), precision [bold]{engine.precision}[/], "
            f"device [bold]{_escape(engine.device)}[/]"
        )
        members = counted(len(model.members), "member")
        self._say(f"model {_escape(model.name)}: {members}, {scorer.views} views of {model.view_size} px")
        if self._terminal:
            from rich import progress

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("{task.fields[rate]:.1f} img/s"),
                progress.TimeRemainingColumn(),
                progress.TextColumn("[red]{task.fields[failed]}"),
                console=self.console,
            )
            self._bar.add_task("scoring", total=None, rate=0.0, failed="")
            self._bar.start()

    def progress(self, summary: Summary) -> None:
        """Called after every row."""
        if self._bar is not None:
            failed = f"{summary.failed} failed" if summary.failed else ""
            total = None if self._total is None else max(self._total - summary.done, summary.images)
            self._bar.update(0, completed=summary.images, total=total, rate=summary.rate, failed=failed)
            return
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            of = "" if self._total is None else f" of {self._total - summary.done}"
            left = (
                f", {(self._total - summary.done - summary.images) / summary.rate:.0f} s left"
                if self._total and summary.rate
                else ""
            )
            self._say(f"{summary.images}{of} images, {summary.failed} failed, {summary.rate:.1f} img/s{left}")

    def interrupted(self, output: str) -> None:
        """After Ctrl-C or SIGTERM."""
        if self._bar is not None:
            self._bar.stop()  # gives the terminal its cursor back
        self._say(f"interrupted; everything scored so far is safe, go on with: --resume -o {_escape(output)}")

    def finished(self, summary: Summary) -> None:
        """The summary."""
        if self._json:
            click.echo(json.dumps(summary.as_dict()))
            return
        failures = ", ".join(f"{n} {name}" for name, n in sorted(summary.statuses.items()) if name != "ok")
        self._say(
            f"[bold]{summary.scored} scored[/], {summary.failed} failed{f' ({failures})' if failures else ''}, "
            f"{summary.seconds:.1f} s, {summary.rate:.1f} images/s"
        )
        if summary.done:
            self._say(f"{counted(summary.done, 'row')} there already")
        if summary.skipped:
            self._say(f"{counted(summary.skipped, 'file')} skipped: no image extension")
        extremes = summary.as_dict()
        for name in ("worst", "best"):
            if extremes[name]:
                self._say(f"{name}:")
            for entry in extremes[name]:
                self._say(f"  {entry['score']:.3f}  {_escape(entry['path'])}")
        self._say(f"written to [bold]{_escape(summary.output)}[/]")

    def _say(self, text: str) -> None:
        if not self._quiet and not self._json:
            self.console.print(text)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(shown(text))
