"""`metaqap-fast score`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from metaqap_fast import options, signals
from metaqap_fast.cli import shared
from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.gpu_errors import GpuLost
from metaqap_fast.options import OutputMode, Shard, Some

if TYPE_CHECKING:
    from metaqap_fast.input import Source
    from metaqap_fast.input.ahead import Ahead
    from metaqap_fast.scorer import Scorer

# Options that cannot be given together, and those that are nothing without another.
APART = [
    ("resume", "overwrite"), ("strict", "max_failed"), ("prune", "limit"),
    ("o", "resume"), ("o", "overwrite"), ("o", "json"), ("o", "shard"),
    ("ray", "limit"), ("ray", "profile"), ("ray", "threads"), ("ray", "dry_run"), ("ray", "o"),
]  # fmt: skip
TOGETHER = [
    ("retry_failed", "resume"), ("prune", "resume"), ("moved", "resume"), ("sample", "limit"), ("seed", "sample"),
    ("format", "o"),
]  # fmt: skip


@click.command(short_help="Score images into one file.")
@click.argument("source", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    default=options.OUTPUT,
    show_default=True,
    help="File to write. Its ending says what it is: .h5 (a score file, to which later runs can add with --resume), "
    ".csv, .jsonl or .parquet. - is standard output.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "jsonl"]),
    help="With -o -: the format of the rows on standard output.  [default: csv]",
)
@shared.MODEL
@shared.ENGINE
@shared.DEVICES
@shared.PRECISION
@shared.BATCH
@shared.THREADS
@shared.RAW
@click.option(
    "--exif",
    is_flag=True,
    help="Add columns for date, camera, lens and exposure, read from EXIF. Places are never read.",
)
@shared.MIN_SIZE
@shared.MAX_PIXELS
@shared.MAX_BYTES
@shared.MAX_SECONDS
@shared.MAX_MEMORY
@click.option(
    "--exclude",
    multiple=True,
    metavar="GLOB",
    help="Leave out files or folders whose name fits, such as '*.gif' or 'thumbnails'. Can be given several times.",
)
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Score only the first N images, to try something out."
)
@click.option("--sample", is_flag=True, help="With --limit: N random images, not the first N.")
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    metavar="N",
    help="With --sample: the same seed gives the same images.",
)
@click.option(
    "--shard",
    type=shared.Sharing(),
    help="Score one of n shares, 0/n to n-1/n, for example one on each machine. `merge` makes one file of them.",
)
@click.option(
    "--ray",
    is_flag=False,
    flag_value="local",
    metavar="[ADDRESS]",
    help="Score on a Ray cluster. ADDRESS is host:port of its head node, or auto on one of its nodes; without ADDRESS "
    "Ray runs on this machine alone.",
)
@click.option(
    "--rows-per-part",
    type=click.IntRange(min=1),
    default=options.ROWS_PER_PART,
    show_default=True,
    metavar="N",
    help="Write rows to disk after every N, and at least every 10 seconds. A crash costs what is not on disk yet.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Keep the rows of an existing output or an interrupted run, and score only what is new or has changed.",
)
@click.option(
    "--retry-failed", is_flag=True, help="With --resume: score the failed images again, for example with higher limits."
)
@click.option("--prune", is_flag=True, help="With --resume: remove the rows of images that no longer exist.")
@click.option(
    "--moved", is_flag=True, help="With --resume: SOURCE is the folder that was scored, now in another place."
)
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@click.option(
    "--profile", type=click.Path(), help="Write to this .json file when each stage worked; open it at ui.perfetto.dev."
)
@click.option("--image", default="", metavar="COLUMN", help="In tables: the column of images, if several hold bytes.")
@click.option(
    "--key", default="", metavar="COLUMN", help="In tables: the column of names.  [default: the row's number]"
)
@click.option("--strict", is_flag=True, help="Exit with status 3 if any image failed; the same as --max-failed 0.")
@click.option(
    "--max-failed",
    type=shared.SomeImages(),
    help="Exit with status 3 if more images failed: a number, or a percentage.",
)
@click.option(
    "--dry-run", is_flag=True, help="Only say what would be scored. No model is loaded, and nothing is written."
)
@click.option("--quiet", is_flag=True, help="Print errors only.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON on standard output, and no progress.")
def score(
    source: tuple[str, ...],
    output: str,
    form: str | None,
    threads: int | None,
    rows_per_part: int,
    resume: bool,
    retry_failed: bool,
    prune: bool,
    moved: bool,
    overwrite: bool,
    shard: Shard | None,
    ray: str | None,
    profile: str | None,
    image: str,
    key: str,
    strict: bool,
    max_failed: Some | None,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Score the images of each SOURCE into one file.

    A SOURCE is a folder (with its subfolders), an image, a tar or zip archive, or a parquet or arrow table. It can also
    be a glob pattern, in which braces such as {000..099} work too; @list.txt, a file with one path on each line (@- is
    standard input); or a URL of any of these, such as s3://bucket/shards.

    Exit status: 0 done; 1 the run could not be completed; 2 wrong usage; 3 more images failed than --strict or
    --max-failed allows; 5 no image could be scored; 129, 130 or 143 interrupted.
    """
    _check(click.get_current_context().params)
    if threads:
        shared.use_threads(threads)  # before any library counts the cores
    from metaqap_fast.cli.progress import Report
    from metaqap_fast.input import open_sources
    from metaqap_fast.input.ahead import Ahead
    from metaqap_fast.run import about, run, run_to
    from metaqap_fast.scale import apart, feeding
    from metaqap_fast.scale.shards import run_shards
    from metaqap_fast.scorer import Scorer
    from metaqap_fast.scores.claim import Claim
    from metaqap_fast.scores.committed import root_of
    from metaqap_fast.summary import Summary
    from metaqap_fast.trace import Trace

    arguments: list[str] | None = click.get_current_context().obj
    device, one = settings.pop("device"), bool(profile or output == "-" or ray or dry_run)
    devices = device.split(",") if one else feeding.devices(settings["engine"], device)
    gpu = apart.needed(settings["engine"], device) if arguments and not (ray or dry_run) else ""
    if arguments and gpu and len(devices) == 1:
        sys.exit(apart.run(gpu, arguments))
    mode: OutputMode = "resume" if resume else "overwrite" if overwrite else "new"
    some: dict[str, Any] = {name: settings.pop(name) for name in ("exclude", "limit", "sample", "seed")}
    root = root_of(output) if resume and not moved else None
    if root is not None and (gone := _gone(root)):
        raise UsageError(
            f"the images of {output} were in {gone}, which is not there any more. If it was moved, give --moved; "
            "otherwise another -o"
        )
    found = open_sources(source, root, image=image, key=key)

    def choose(entries: Source) -> Source:
        return _chosen(entries, None if ray else shard, **some)

    # A cluster's workers list archives themselves.
    listing = None if ray else Ahead(choose(found))
    if dry_run and listing:
        _preview(listing, output, mode, retry_failed, as_json)
        return
    if len(devices) > 1 and one:
        raise click.UsageError(f"{'--profile' if profile else '--ray' if ray else '-o -'} is for one device")
    if listing and not shard:  # of few images a share may have none
        listing.check()
    if listing and len(devices) > 1 and device == "auto" and listing.few(feeding.FEW):
        devices = [device]
        if arguments and gpu:
            listing.close()
            sys.exit(apart.run(gpu, arguments))
    trace = Trace(profile) if profile else None
    claim = None if output == "-" else Claim(output, mode)  # before the seconds that a model takes to compile
    saving: dict[str, Any] = {
        "rows_per_part": rows_per_part, "retry_failed": retry_failed, "prune": prune, "moved": moved, "shard": shard,
    }  # fmt: skip
    summary = Summary(output)
    report = Report(lambda: listing.total if listing else None, summary, quiet=quiet, as_json=as_json)

    def stopped(error: BaseException) -> None:
        """End an interrupted run at once: everything is committed, and to close engine and decoder takes seconds."""
        if isinstance(error, signals.INTERRUPTIONS):
            if claim:
                claim.close()
            report.interrupted(signals.exit_status(error))
            signals.leave(signals.exit_status(error))

    with signals.as_exceptions(), claim or nullcontext(), report:
        try:
            if listing is None:
                assert ray and claim
                from metaqap_fast.scale.cluster import run_cluster

                run_cluster(
                    ray, found, choose, claim, mode, {**settings, "device": devices[0]}, report.progress,
                    report.started, **saving, summary=summary,
                )  # fmt: skip
            elif claim and len(devices) > 1:
                run_shards(
                    devices, listing, claim, mode, settings, report.progress, report.started, **saving, summary=summary
                )
            else:
                with signals.at_once(stopped):
                    scorer = Scorer(device=devices[0], **settings)
                with _ended(scorer):
                    report.started(about(scorer))
                    if claim:
                        run(
                            scorer, listing, claim, mode, report.progress, trace, **saving, stopped=stopped,
                            summary=summary,
                        )  # fmt: skip
                    else:
                        file = sys.stdout.buffer
                        run_to(scorer, listing, file, f".{form or 'csv'}", report.progress, trace, stopped, summary)
        except signals.INTERRUPTIONS as error:
            stopped(error)
            raise
        except MetaqapError as error:
            report.failed(error)
            raise
    status = summary.exit_status(Some(0) if strict else max_failed)
    report.finished(status)
    sys.exit(status)


def _gone(root: str) -> str:
    """The folder of this URL, if it is one of this machine and does not exist."""
    from metaqap_fast.input.places import address_of, is_url

    folder = address_of(root)
    missing = folder is not None and not is_url(folder) and not os.path.lexists(folder)
    return os.fsdecode(folder) if folder and missing else ""


@contextmanager
def _ended(scorer: Scorer) -> Iterator[None]:
    """Closes it, also after an error: a GPU's libraries may abort if the interpreter ends before them.

    But not one whose GPU is lost, where they may hang, and not after a signal: both leave at once.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, GpuLost):
            scorer.close()
        raise
    scorer.close()


def _check(given: Mapping[str, Any]) -> None:
    """Refuse options that do not go together."""
    given = {**given, "json": given["as_json"], "format": given["form"], "o": given["output"] == "-"}
    names = {"o": "-o -"}

    def name(option: str) -> str:
        return names.get(option, f"--{option.replace('_', '-')}")

    for one, other in APART:
        if given[one] and given[other]:
            raise click.UsageError(f"{name(one)} and {name(other)} cannot be given together")
    for one, other in TOGETHER:
        if given[one] and not given[other]:
            raise click.UsageError(f"{name(one)} goes with {name(other)}")


def _chosen(
    entries: Source, shard: Shard | None, exclude: tuple[str, ...], limit: int | None, sample: bool, seed: int
) -> Source:
    """What is to be scored of what was named."""
    from metaqap_fast.input.chosen import Excluding, Limited
    from metaqap_fast.scale.share import Share

    if shard:
        entries = Share(entries, shard.index, shard.count)
    if exclude:
        entries = Excluding(entries, exclude)
    if limit:
        entries = Limited(entries, limit, seed if sample else None)
    return entries


def _preview(listing: Ahead, output: str, mode: OutputMode, retry_failed: bool, as_json: bool) -> None:
    from metaqap_fast.review.preview import describe_preview, preview
    from metaqap_fast.scores.claim import check_output
    from metaqap_fast.streams import shown

    listing.check()
    found = preview(listing, output if mode == "resume" else None, retry_failed)
    click.echo(json.dumps(found) if as_json else "\n".join(map(shown, describe_preview(found))))
    if output != "-":
        check_output(output, mode)  # whether the run itself would be refused
