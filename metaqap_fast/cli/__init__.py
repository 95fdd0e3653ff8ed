"""The command line: options in, exit status out; the work is elsewhere.

Exit status: 0 done (failed images are rows), 3 with --strict when any image failed, 2 usage, 1 could not
complete, 130 or 143 interrupted with everything scored so far committed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from metaqap_fast import __version__
from metaqap_fast.cli.bench import bench
from metaqap_fast.cli.train import train
from metaqap_fast.errors import MetaqapError

if TYPE_CHECKING:
    from metaqap_fast.scores.store import Mode


class _Group(click.Group):
    """Turns the program's own errors into one line and their exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MetaqapError as error:
            click.echo(f"metaqap-fast: {error}", err=True)
            ctx.exit(error.exit_code)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `| head`: not an error
            ctx.exit(0)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="metaqap-fast")
def main() -> None:
    """No-reference image quality scores for whole data sets."""


_MODEL = click.option("--model", default="default", show_default=True, help="Shipped model's name or bundle folder.")
_ENGINE = click.option(
    "--engine",
    type=click.Choice(["auto", "tensorrt", "native", "openvino", "torch"]),
    default="auto",
    show_default=True,
    help="native: compiled for CPUs with bf16.",
)
_DEVICE = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda:N[,cuda:M...]",
    help="Several devices: a process on each (score only).",
)
_PRECISION = click.option(
    "--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16", "int8", "fp8"]), default="auto", show_default=True
)
_VIEWS = click.option(
    "--views",
    type=click.Choice(["fit", "native"]),
    default="fit",
    show_default=True,
    help="fit: as shown on a screen; native: a grid of unscaled crops.",
)
_MAX_PIXELS = click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    default=200_000_000,
    show_default=True,
    help="Larger images are not decoded; their rows say too_large.",
)


_MAX_BYTES = click.option(
    "--max-bytes",
    type=click.IntRange(min=1),
    default=1 << 29,
    show_default=True,
    help="Larger files are not read; their rows say too_large.",
)
_MAX_SECONDS = click.option(
    "--max-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="An image that takes longer to decode is given up; its row says too_large.",
)


_MAX_MEMORY = click.option(
    "--max-memory",
    type=click.IntRange(min=1),
    default=1 << 32,
    show_default=True,
    help="Bytes. An image that takes more to decode is given up; its row says too_large.",
)


class _BatchSize(click.ParamType):  # type: ignore[type-arg]
    name = "auto|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value == "auto":
            return None
        if str(value).isdigit() and int(value) > 0:
            return int(value)
        self.fail(f"{value!r} is neither auto nor a positive number", param, ctx)


_BATCH = click.option(
    "--batch-size",
    type=_BatchSize(),
    default="auto",
    show_default=True,
    help="Images decoded together; changes no score.",
)


@main.command()
@click.argument("source", nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(), default="scores.h5", show_default=True, help="Score file (HDF5).")
@_MODEL
@_ENGINE
@_DEVICE
@_PRECISION
@_VIEWS
@_BATCH
@_MAX_PIXELS
@_MAX_BYTES
@_MAX_SECONDS
@_MAX_MEMORY
@click.option(
    "--rows-per-part",
    type=click.IntRange(min=1),
    default=1000,
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
    **options: Any,
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
    from metaqap_fast.signals import at_once
    from metaqap_fast.trace import Trace

    mode: Mode = "resume" if resume else "overwrite" if overwrite else "new"
    listing = Listing(source)
    listing.first()
    check_output(output, mode)  # before the seconds that a model takes to compile
    devices = options.pop("device").split(",")
    if profile and len(devices) > 1:
        raise click.UsageError("--profile is for one device")
    trace = Trace(profile) if profile else None
    saving: dict[str, Any] = {"rows_per_part": rows_per_part, "retry_failed": retry_failed}
    signal.signal(signal.SIGTERM, _terminate)
    report = Report(listing, quiet=quiet, as_json=as_json)

    def leave(stop: BaseException) -> None:
        """End at once, with everything committed: closing engine and decoder would take seconds."""
        if isinstance(stop, (KeyboardInterrupt, SystemExit)):
            report.interrupted(output)
            report.flush()
            os._exit(stop.code if isinstance(stop, SystemExit) else 130)  # type: ignore[arg-type]

    try:
        with report:
            if len(devices) > 1:
                summary = run_shards(devices, listing.sources, output, mode, options, report.progress, saving)
            else:
                with at_once(leave):
                    scorer = Scorer(device=devices[0], **options)
                report.started(scorer)
                summary = run(scorer, listing, output, mode, report.progress, trace, **saving, stopped=leave)
    except (KeyboardInterrupt, SystemExit) as stop:
        leave(stop)
    report.finished(summary)
    if strict and summary.failed:
        sys.exit(3)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@main.command()
@click.argument("scores")
@click.option("--labels", required=True, type=click.Path(), help="csv with an image name and a MOS column.")
@click.option("--draws", type=click.IntRange(min=100), default=1000, show_default=True, help="Bootstrap draws.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_MODEL
@_ENGINE
@_DEVICE
@_PRECISION
@_VIEWS
def evaluate(scores: str, labels: str, draws: int, as_json: bool, **options: Any) -> None:
    """Compare SCORES (a score file, or images to score first) with labels: SROCC, PLCC, KROCC, RMSE."""
    from metaqap_fast.evaluate import evaluate as compare
    from metaqap_fast.evaluate import read_labels
    from metaqap_fast.scores.probe import try_out
    from metaqap_fast.scores.table import ScoreTable

    wanted = read_labels(labels)
    if Path(scores).suffix.lower() in (".h5", ".hdf5"):
        try_out(scores)
        table = ScoreTable.read(scores)
    else:
        from metaqap_fast.scorer import score as score_sources

        table = score_sources(scores, **options)
    result = compare(table, wanted, draws)
    if as_json:
        metrics = {name: dict(zip(("value", "low", "high"), v, strict=True)) for name, v in result.metrics.items()}
        document = {"images": result.count, "missing": result.missing, "failed": result.failed, **metrics}
        click.echo(json.dumps(document))
        return
    click.echo(f"{result.count} of {len(wanted)} labelled images (95 % bootstrap intervals, {draws} draws)")
    for label, names in (("no row", result.missing), ("failed", result.failed)):
        if names:
            click.echo(f"  left out, {label}: {len(names)} ({', '.join(names[:3])}{', ...' if names[3:] else ''})")
    for name, (value, low, high) in result.metrics.items():
        click.echo(f"  {name.upper():14s} {value:.4f}   [{low:.4f}, {high:.4f}]")


@main.command()
@click.argument("scores", type=click.Path())
@click.argument("out", type=click.Path())
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def export(scores: str, out: str, overwrite: bool) -> None:
    """Write a score file as OUT, a .csv, .jsonl or .parquet file."""
    from metaqap_fast.errors import UsageError
    from metaqap_fast.scores.export import export as write
    from metaqap_fast.scores.probe import try_out
    from metaqap_fast.scores.table import ScoreTable

    if Path(out).exists() and not overwrite:
        raise UsageError(f"{out} exists; give --overwrite or another name")
    try_out(scores)
    table = ScoreTable.read(scores)
    write(table, out)
    click.echo(f"{len(table)} rows written to {out}", err=True)


@main.command()
@click.argument("what", metavar="SCORES.h5|MODEL")
def inspect(what: str) -> None:
    """Show what a score file or a model bundle is and how it was made."""
    from metaqap_fast.cli.progress import describe_bundle, describe_scores
    from metaqap_fast.scores.probe import try_out

    if Path(what).is_file():
        try_out(what)
        describe_scores(what)
    else:
        describe_bundle(what)


@main.command("compile")
@click.argument("model", default="default")
@click.option(
    "--engine",
    type=click.Choice(["tensorrt", "tensorrt_rtx", "openvino"]),
    default=None,
    help="Library to compile with.  [default: the TensorRT that is installed]",
)
@click.option(
    "--precision",
    "precisions",
    default="fp16",
    show_default=True,
    metavar="P[,P...]",
    help="fp32 to fp8.",
)
@click.option(
    "--target",
    default="",
    metavar="SM[,SM...]",
    help="Architectures such as sm89, without such a GPU (TensorRT-RTX).  [default: the GPU at hand]",
)
@click.option(
    "--layout",
    type=click.Choice(["merged", "members"]),
    default="merged",
    show_default=True,
    help="One engine for all members, or one each.",
)
@click.option("--batch", type=click.IntRange(1, 1024), default=64, show_default=True, help="Views at once, at most.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cuda:N", help="GPU to build for.")
@click.option(
    "--photos",
    type=click.Path(exists=True, path_type=Path),
    help="Photographs to measure the precision on.  [default: generated images]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Cache folder for the engines; a run finds them with METAQAP_FAST_CACHE set to it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the engines' metadata as JSON.")
def compile_command(model: str, output: Path | None, as_json: bool, **options: Any) -> None:
    """Build the engines of MODEL ahead of the first run, and measure what their precision does to scores."""
    from metaqap_fast.engine.prebuild import compile_model

    if output is not None:
        os.environ["METAQAP_FAST_CACHE"] = str(output.resolve())
    documents = compile_model(model, say=lambda text: click.echo(text, err=True), **options)
    if as_json:
        click.echo(json.dumps(documents, indent=1))


main.add_command(train)
main.add_command(bench)
