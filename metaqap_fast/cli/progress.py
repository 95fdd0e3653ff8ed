"""What a person sees of a run: progress on standard error, the summary there or as JSON on standard output."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from metaqap_fast.options import NOTHING_SCORED, TOO_MANY_FAILED
from metaqap_fast.streams import counted, shown

if TYPE_CHECKING:
    from metaqap_fast.errors import MetaqapError
    from metaqap_fast.scores.totals import Totals
    from metaqap_fast.summary import Summary

SECONDS_BETWEEN_LINES = 5.0
FAILURES = 3  # shown
WHY = {  # a run that came to its end has another exit status than 0
    NOTHING_SCORED: "no image could be scored",  # of the output, or of this run
    TOO_MANY_FAILED: "more images failed than --strict or --max-failed allows",
}


class Report:
    """Progress of one run: a bar on a terminal, a line every few seconds elsewhere, silence if asked for.

    Args:
        total: how many images there are, once that is known.
        summary: of the run, as far as it has come.
        quiet: say nothing.
        as_json: say nothing but the summary, on standard output.
    """

    def __init__(
        self, total: Callable[[], int | None], summary: Summary, quiet: bool = False, as_json: bool = False
    ) -> None:
        self._total, self.summary = total, summary
        self._quiet, self._json = quiet, as_json
        self.console = Console(file=sys.stderr, highlight=False, soft_wrap=True, emoji=False)
        self._terminal = sys.stderr.isatty() and not quiet and not as_json
        self._last = time.monotonic()
        self._model = ""
        self._bar: Any = None

    def __enter__(self) -> Report:
        logging.basicConfig(format="metaqap-fast: %(message)s", level=logging.WARNING)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()  # gives the terminal its cursor back

    def started(self, about: Mapping[str, Any]) -> None:
        """Say loudly what runs, see `run.about`; with several devices, on each."""
        text = {name: _escape(str(value)) for name, value in about.items()}
        self._say(
            f"engine [bold]{text['engine']}[/] ({text['reason']}), precision [bold]{text['precision']}[/], "
            f"device [bold]{text['device']}[/]"
        )
        members = counted(about["members"], "member")
        model = f"model {text['model']}: {members}, views of {text['view_size']} px"
        if model != self._model:
            self._say(model)
        self._model = model
        if self._terminal and self._bar is None:
            self._bar = _bar(self.console)

    def progress(self, summary: Summary) -> None:
        """Called after every row, or now and then. Images that were there already count as done."""
        done, total, failed = summary.passed + summary.images, self._total(), f"{summary.failed:,} failed"
        if self._bar is not None:
            shown_total = total if total is None else max(total, done)
            failed = failed if summary.failed else ""
            self._bar.update(0, completed=done, total=shown_total, rate=summary.rate, failed=failed)
            return
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            of = "" if total is None else f" of {max(total, done):,}"
            left = f", {max(0, total - done) / summary.rate:.0f} s left" if total is not None and summary.rate else ""
            self._say(f"{done:,}{of} images, {failed}, {summary.rate:.1f} images/s{left}")

    def interrupted(self, status: int) -> None:
        """After Ctrl-C or SIGTERM, before the process leaves with this status."""
        if self._bar is not None:
            self._bar.stop()  # gives the terminal its cursor back
        if self._json:
            self._print(exit_status=status, interrupted=True)
        elif self.summary.output == "-":
            self._say("interrupted; everything scored so far was written")
        else:
            output = _escape(self.summary.output)
            safe = "everything scored so far is safe" if self.summary.images else "nothing was scored yet"
            self._say(f"interrupted; {safe}. To go on, give the same command and --resume (output: {output})")

    def failed(self, error: MetaqapError) -> None:
        """After what ended the run, which is said elsewhere."""
        if self._json:
            self._print(exit_status=error.exit_code, reason=str(error))

    def finished(self, status: int) -> None:
        """The summary, before the process leaves with this status."""
        if self._json:
            self._print(exit_status=status)
            return
        summary, totals = self.summary, self.summary.totals
        if self._quiet:
            if status:
                self.console.print(f"{WHY[status]}: {totals.failed:,} of {totals.rows:,} failed{_first(totals)}")
            return
        failures = ", ".join(f"{n:,} {name}" for name, n in totals.failures.items())
        output, speed = _escape(summary.output), f"{summary.seconds:.1f} s, {summary.rate:.1f} images/s"
        all_rows = f"[bold]{totals.scored:,} scored[/], {totals.failed:,} failed{f' ({failures})' if failures else ''}"
        if summary.done:
            self._say(f"{all_rows}, in all")
            self._say(
                f"this run: {counted(summary.images, 'image')}, {speed}" if summary.images else "this run: none new"
            )
        else:
            self._say(f"{all_rows}, {speed}")
        if reasons := totals.by_reason:
            self._say("reasons: " + ", ".join(f"{n:,} {_escape(name)}" for name, n in reasons.items()))
        gone = (
            "removed: the image is gone"
            if summary.pruned
            else "kept of images that no longer exist (--prune removes them)"
        )
        for count, text in (
            (summary.kept, "kept from an earlier run"),
            (summary.changed, "scored again: the file has changed"),
            (summary.retried, "scored again: it had failed"),
            (summary.gone, gone),
        ):
            if count:
                self._say(f"{counted(count, 'row')} {text}")
        for kind, count in summary.left_out.items():
            what = f"{counted(count, 'file')} skipped" if kind == "no image extension" else f"{count:,} left out"
            self._say(f"{what}: {_escape(kind)}")
        for failure in totals.first_failures[:FAILURES]:
            self._say(f"{failure['status']}  {_escape(failure['path'])}: {_escape(failure['error'])}")
        if totals.failed > FAILURES:
            where = "" if summary.output == "-" else f": metaqap-fast select {output} --status failed --csv"
            self._say(f"... and {totals.failed - FAILURES:,} more that failed{where}")
        for name, extremes in (("worst", totals.worst), ("best", totals.best)):
            if extremes:
                self._say(f"{name}:")
            for score, path, reason in extremes:
                self._say(f"  {score:.3f}  {_escape(path)}{f'  ({reason})' if reason else ''}")
        if status:
            self._say(WHY[status])
        if summary.output != "-":
            self._say(f"written to [bold]{output}[/]")

    def _print(self, exit_status: int, interrupted: bool = False, reason: str | None = None) -> None:
        about = {"exit_status": exit_status, "interrupted": interrupted, "error": reason}
        click.echo(json.dumps({**about, **self.summary.as_dict()}, allow_nan=False))

    def _say(self, text: str) -> None:
        if not self._quiet and not self._json:
            self.console.print(text)


def _first(totals: Totals) -> str:
    """One failure, for a run that says nothing else."""
    return "".join(f"; {_escape(each['path'])}: {_escape(each['error'])}" for each in totals.first_failures[:1])


def _bar(console: Console) -> Any:
    from rich import progress

    bar = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]:.1f} images/s"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("[red]{task.fields[failed]}"),
        console=console,
    )
    bar.add_task("scoring", total=None, rate=0.0, failed="")
    bar.start()
    return bar


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(shown(text))
