"""`metaqap-fast score`."""

from __future__ import annotations

import sys
from typing import Any

import click

from metaqap_fast import options, signals
from metaqap_fast.cli import shared
from metaqap_fast.options import OutputMode


@click.command()
@click.argument("source", nargs=-1, required=True)
@click.option(
    "-o", "--output", type=click.Path(), default=options.OUTPUT, show_default=True, help="Score file to write (HDF5)."
)
@shared.MODEL
@shared.ENGINE
@shared.DEVICES
@shared.PRECISION
@shared.VIEWS
@shared.BATCH
@shared.MAX_PIXELS
@shared.MAX_BYTES
@shared.MAX_SECONDS
@shared.MAX_MEMORY
@click.option(
    "--rows-per-part",
    type=click.IntRange(min=1),
    default=options.ROWS_PER_PART,
    show_default=True,
    metavar="N",
    help="Rows are committed to disk after this many, and at least every 10 seconds.",
)
@click.option(
    "--resume", is_flag=True, help="Keep the rows of an existing output or of an interrupted run, and score the rest."
)
@click.option("--retry-failed", is_flag=True, help="With --resume: score those images again that failed.")
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@click.option("--profile", type=click.Path(), help="Write a trace of the stages to this .json, for ui.perfetto.dev.")
@click.option("--image", default="", metavar="COLUMN", help="Column of the images in tables, if several hold bytes.")
@click.option("--key", default="", metavar="COLUMN", help="Column of the keys in tables; otherwise the row's number.")
@click.option("--strict", is_flag=True, help="Exit status 3 if any image failed.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON on standard output, and no progress.")
def score(
    source: tuple[str, ...],
    output: str,
    rows_per_part: int,
    resume: bool,
    retry_failed: bool,
    overwrite: bool,
    profile: str | None,
    image: str,
    key: str,
    strict: bool,
    quiet: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Score the images of each SOURCE into one file.

    A SOURCE is a folder (with its subfolders), an image, a tar or zip archive, a parquet or arrow table, a glob pattern
    (braces such as {000..099} too), or @list.txt, a file with one path per line (@- is standard input).
    """
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite exclude each other")
    if retry_failed and not resume:
        raise click.UsageError("--retry-failed goes with --resume")
    if quiet and as_json:
        raise click.UsageError("--quiet and --json exclude each other")
    from metaqap_fast.cli.progress import Report
    from metaqap_fast.input import open_sources
    from metaqap_fast.input.ahead import Ahead
    from metaqap_fast.run import about, run
    from metaqap_fast.scale.shards import run_shards
    from metaqap_fast.scorer import Scorer
    from metaqap_fast.scores.store import check_output
    from metaqap_fast.trace import Trace

    mode: OutputMode = "resume" if resume else "overwrite" if overwrite else "new"
    devices = settings.pop("device").split(",")
    if profile and len(devices) > 1:
        raise click.UsageError("--profile is for one device")
    listing = Ahead(open_sources(source, image=image, key=key))
    listing.check()
    check_output(output, mode)  # before the seconds that a model takes to compile
    trace = Trace(profile) if profile else None
    saving: dict[str, Any] = {"rows_per_part": rows_per_part, "retry_failed": retry_failed}
    report = Report(lambda: listing.total, quiet=quiet, as_json=as_json)

    def stopped(error: BaseException) -> None:
        """End an interrupted run at once: everything is committed, and to close engine and decoder takes seconds."""
        if isinstance(error, signals.INTERRUPTIONS):
            report.interrupted(output)
            signals.leave(signals.exit_status(error))

    with signals.as_exceptions():
        try:
            with report:
                if len(devices) > 1:
                    summary = run_shards(
                        devices, listing, output, mode, settings, report.progress, report.started, **saving
                    )
                else:
                    with signals.at_once(stopped):
                        scorer = Scorer(device=devices[0], **settings)
                    report.started(about(scorer))
                    summary = run(scorer, listing, output, mode, report.progress, trace, **saving, stopped=stopped)
                    scorer.close()  # a GPU's libraries may abort if the interpreter ends before them
        except signals.INTERRUPTIONS as error:
            stopped(error)
            raise
    report.finished(summary)
    if strict and summary.failed:
        sys.exit(3)
