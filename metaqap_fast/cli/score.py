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
@click.option("-o", "--output", type=click.Path(), default=options.OUTPUT, show_default=True, help="Score file (HDF5).")
@shared.MODEL
@shared.ENGINE
@shared.DEVICE
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
    help="Rows are safe on disk at least this often, and every 10 seconds.",
)
@click.option("--resume", is_flag=True, help="Keep the rows that are there, score only what is missing.")
@click.option("--retry-failed", is_flag=True, help="With --resume: score images again that failed before.")
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@click.option("--profile", type=click.Path(), help="Write the stages' times to this .json, to be seen in Perfetto.")
@click.option("--strict", is_flag=True, help="Exit status 3 if any image failed.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON summary on stdout, nothing else there.")
def score(
    source: tuple[str, ...],
    output: str,
    rows_per_part: int,
    resume: bool,
    retry_failed: bool,
    overwrite: bool,
    profile: str | None,
    strict: bool,
    quiet: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Score every image of SOURCE: folders, image files, globs, or @list.txt (one path per line)."""
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite exclude each other")
    if retry_failed and not resume:
        raise click.UsageError("--retry-failed goes with --resume")
    if quiet and as_json:
        raise click.UsageError("--quiet and --json exclude each other")
    from metaqap_fast.cli.progress import Report
    from metaqap_fast.input.files import Listing
    from metaqap_fast.run import run
    from metaqap_fast.scale.shards import run_shards
    from metaqap_fast.scorer import Scorer
    from metaqap_fast.scores.store import check_output
    from metaqap_fast.trace import Trace

    mode: OutputMode = "resume" if resume else "overwrite" if overwrite else "new"
    listing = Listing(source)
    listing.first()
    check_output(output, mode)  # before the seconds that a model takes to compile
    devices = settings.pop("device").split(",")
    if profile and len(devices) > 1:
        raise click.UsageError("--profile is for one device")
    trace = Trace(profile) if profile else None
    saving: dict[str, Any] = {"rows_per_part": rows_per_part, "retry_failed": retry_failed}
    report = Report(listing, quiet=quiet, as_json=as_json)

    def stopped(error: BaseException) -> None:
        """End an interrupted run at once: everything is committed, and to close engine and decoder takes seconds."""
        if isinstance(error, signals.INTERRUPTIONS):
            report.interrupted(output)
            signals.leave(signals.exit_status(error))

    with signals.as_exceptions():
        try:
            with report:
                if len(devices) > 1:
                    summary = run_shards(devices, listing.sources, output, mode, settings, report.progress, saving)
                else:
                    with signals.at_once(stopped):
                        scorer = Scorer(device=devices[0], **settings)
                    report.started(scorer)
                    summary = run(scorer, listing, output, mode, report.progress, trace, **saving, stopped=stopped)
        except signals.INTERRUPTIONS as error:
            stopped(error)
            raise
    report.finished(summary)
    if strict and summary.failed:
        sys.exit(3)
