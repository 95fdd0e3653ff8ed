"""The `bench` commands: options in, calls of `metaqap_fast.bench` out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from metaqap_fast.errors import MetaqapError, UsageError

F = TypeVar("F", bound=Callable[..., Any])
_PATH = click.Path(path_type=Path)
_MODEL = click.option("--model", default="default", show_default=True, help="Shipped model's name or bundle folder.")
_DEVICE = click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda:N")
_OUTPUT = click.option("-o", "--output", type=_PATH, help="Folder for the run.  [default: bench-KIND-TIME]")
_DRAFT = click.option(
    "--even-busy", is_flag=True, help="Show what disturbed repetitions gave too; those are no results."
)


def _sampling(command: F) -> F:
    """The options of everything that is timed."""
    for option in (
        click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True, help="Of every case."),
        click.option(
            "--seconds", type=click.FloatRange(min=0), default=1.0, show_default=True, help="Shortest time of one."
        ),
        click.option(
            "--patience", type=click.FloatRange(min=0), default=10.0, show_default=True,
            help="Seconds to wait for an idle machine before each.",
        ),
        click.option("--seed", type=int, default=0, show_default=True, help="Of the order."),
        _DRAFT,
        _OUTPUT,
    ):  # fmt: skip
        command = option(command)
    return command


def _images(command: F) -> F:
    """Where images come from."""
    for option in (
        click.option("--images", "count", type=click.IntRange(min=1), help="Use the first N.  [default: all]"),
        click.option("--sizes", default="512x512", show_default=True, metavar="WxH,...", help="Of generated images."),
        click.option("--synthetic", type=click.IntRange(min=1), metavar="N", help="Generate N JPEGs of each size."),
        click.argument("sources", nargs=-1, metavar="[DIR]..."),
    ):
        command = option(command)
    return command


class _Group(click.Group):
    """Says in one line what to install where the bench extra is missing."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("metaqap_fast"):
                raise
            needed = f"bench needs more packages: pip install 'metaqap-fast[bench]' ({error})"
            raise MetaqapError(needed) from None


@click.group(cls=_Group)
def bench() -> None:
    """Measure: how fast, where the time goes, how good. docs/benchmarks.md has the rules."""


@bench.command()
@_images
@_MODEL
@_DEVICE
@click.option(
    "--engines", default="auto", show_default=True, metavar="E,...", help="auto, tensorrt, native, openvino, torch."
)
@click.option("--precisions", default="auto", show_default=True, metavar="P,...", help="auto, fp32, bf16, fp16, int8.")
@click.option("--batch-sizes", default="auto", show_default=True, metavar="N,...")
@click.option("--threads", default="auto", show_default=True, metavar="N,...", help="CPUs that a run may use.")
@_sampling
def throughput(engines: str, precisions: str, batch_sizes: str, threads: str, **options: Any) -> None:
    """Time each stage alone and the whole run, on DIR or on generated images."""
    from metaqap_fast.bench import command as shared
    from metaqap_fast.bench.throughput import Grid, cases
    from metaqap_fast.options import ENGINES, PRECISIONS

    axes: dict[str, Any] = {
        "engines": shared.choices("engine", engines, ENGINES),
        "precisions": shared.choices("precision", precisions, PRECISIONS),
        "batches": shared.numbers("--batch-sizes", batch_sizes),
        "threads": shared.threads(threads),
    }
    model, device = options["model"], options["device"]
    settings = {**axes, "model": shared.model_name(model), "device": device}
    with shared.sources(**shared.taken(options)) as sources:
        grid = Grid(sources, **axes, model=model, device=device, count=options["count"])
        shared.time_cases("throughput", cases(grid), settings, sources, options)


@bench.command()
@_images
@_MODEL
@_DEVICE
@click.option("--engine", default="auto", show_default=True, metavar="E")
@click.option("--precisions", default="fp32,bf16,int8", show_default=True, metavar="P,...")
@_sampling
def limit(engine: str, precisions: str, **options: Any) -> None:
    """Time the machine's own ceilings and hold each stage against its own, with a roofline."""
    from metaqap_fast.bench import command as shared
    from metaqap_fast.bench.limits import cases
    from metaqap_fast.model.bundle import load
    from metaqap_fast.options import ENGINES, PRECISIONS

    wanted = shared.choices("precision", precisions, PRECISIONS[1:])
    shared.choices("engine", engine, ENGINES)
    if "," in options["sizes"]:
        raise UsageError("--sizes: the limits are measured on one size")
    bundle = load(options["model"])
    settings = {"model": bundle.name, "device": options["device"], "engine": engine}
    with shared.sources(**shared.taken(options)) as sources:
        every = {**settings, "model": options["model"], "batch_size": None, "count": options["count"]}
        shared.time_cases(
            "limit", cases(sources, wanted, bundle, every), {**settings, "precisions": wanted}, sources, options
        )


@bench.command()
@_images
@_MODEL
@_DEVICE
@click.option("--engine", default="auto", show_default=True, metavar="E", help="Of ours.")
@click.option("--precisions", default="fp32,bf16,int8", show_default=True, metavar="P,...", help="Of ours.")
@click.option("--peers", "names", default="eager,compiled,onnxruntime,brisque", show_default=True, metavar="NAME,...")
@click.option(
    "--python",
    "pythons",
    multiple=True,
    metavar="PEER=PYTHON",
    help="Run a peer in another environment, which has metaqap-fast too.",
)
@_sampling
def peers(engine: str, precisions: str, names: str, pythons: tuple[str, ...], **options: Any) -> None:
    """Do the same job with what one would use instead. What is not installed is skipped."""
    from metaqap_fast.bench import command as shared
    from metaqap_fast.bench.peers import PEERS, cases
    from metaqap_fast.options import ENGINES, PRECISIONS

    chosen = shared.choices("peer", names, list(PEERS))
    wanted = shared.choices("precision", precisions, PRECISIONS)
    shared.choices("engine", engine, ENGINES)
    others = dict(shared.pair(text, chosen) for text in pythons)
    settings = {"model": shared.model_name(options["model"]), "device": options["device"], "engine": engine}
    with shared.sources(**shared.taken(options)) as sources:
        every = {**settings, "model": options["model"], "count": options["count"]}
        told = {**settings, "precisions": wanted, "peers": chosen, "own_environment": sorted(others)}
        shared.time_cases("peers", cases(sources, chosen, wanted, every, others), told, sources, options)


@bench.command()
@click.option(
    "--set", "sets", multiple=True, metavar="NAME=ROOT", help="A labelled set: biq2021, koniq10k, ... or csv."
)
@click.option("--low", type=float, help="MOS of the worst image that a csv's scale allows.")
@click.option("--high", type=float, help="MOS of the best one.")
@click.option("--images", "count", type=click.IntRange(min=5), help="Use N images of each set.  [default: all]")
@click.option("--twins/--no-twins", default=True, show_default=True, help="Also without twins of training images.")
@click.option("--pristine", type=click.Path(exists=True, path_type=Path), help="Photographs to distort and to change.")
@click.option("--photos", type=click.IntRange(min=1), default=20, show_default=True, help="Of the pristine ones.")
@click.option("--precisions", default="fp32,bf16,fp16,int8", show_default=True, metavar="P,...")
@_MODEL
@_DEVICE
@_OUTPUT
def accuracy(
    sets: tuple[str, ...],
    low: float | None,
    high: float | None,
    count: int | None,
    twins: bool,
    pristine: Path | None,
    photos: int,
    precisions: str,
    output: Path | None,
    **options: Any,
) -> None:
    """Measure how good scores are: against opinions, under distortions and harmless changes, in each precision."""
    from metaqap_fast.bench import command as shared
    from metaqap_fast.options import PRECISIONS

    wanted = shared.choices("precision", precisions, PRECISIONS[1:])
    if not sets and pristine is None:
        raise UsageError("give labelled images (--set NAME=ROOT), photographs (--pristine FOLDER), or both")
    model = shared.model_name(options["model"])
    from metaqap_fast.bench.accuracy_run import changed, distorted, labelled, photographs
    from metaqap_fast.scorer import Scorer
    from metaqap_fast.train.datasets import load

    def say(line: str) -> None:
        click.echo(line, err=True)

    names = [text.partition("=")[::2] for text in sets]
    data = [load(name, root, *((low, high) if name == "csv" else (None, None))) for name, root in names]
    pictures = photographs(pristine, photos) if pristine else []
    settings = {"sets": [name for name, _ in names], "images": count, "photos": len(pictures), "precisions": wanted}
    with shared.recording(
        "accuracy", {**settings, **options, "model": model}, {"output": output, "even_busy": False}
    ) as record:
        for each in data:
            for row in labelled(each, wanted, options, count, twins, say):
                record.add(row)
        if pictures:
            scorer = Scorer(precision=wanted[0], **options)
            for row in distorted(scorer, pictures, say):
                record.add(row)
            for row in changed(scorer, pictures):
                record.add(row)
            scorer.close()


@bench.command()
@click.option("--rows", default="1000,10000", show_default=True, metavar="N,...", help="Up to a million and more.")
@click.option("--workers", default="1,2", show_default=True, metavar="N,...", help="Processes on the largest N rows.")
@click.option("--device", "devices", default="cpu", show_default=True, metavar="cpu|cuda:N,...", help="Taken in turn.")
@_sampling
def scale(rows: str, workers: str, devices: str, **options: Any) -> None:
    """Time a model that costs nothing over more and more rows and workers: the time per row must stay flat."""
    import tempfile

    from metaqap_fast.bench import command as shared
    from metaqap_fast.bench.scale import cases
    from metaqap_fast.bench.soak import make_images
    from metaqap_fast.bench.tiny import write_tiny

    numbers = sorted(set(shared.positive("--rows", rows)))
    counts = shared.positive("--workers", workers)
    with tempfile.TemporaryDirectory(prefix="metaqap-bench-") as work:
        folders, model = {}, write_tiny(Path(work, "tiny"))
        for number in numbers:
            folder = Path(work, str(number))
            folder.mkdir()
            make_images(folder, number)
            folders[number] = folder / "images"
        settings = {"rows": numbers, "workers": counts, "devices": devices}
        shared.time_cases("scale", cases(folders, model, devices.split(","), counts), settings, {}, options)


@bench.command()
@click.argument("runs", nargs=-1, required=True, type=_PATH)
@click.option("-o", "--output", type=_PATH, help="Write one HTML page that needs nothing else.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_DRAFT
def report(runs: tuple[Path, ...], output: Path | None, as_json: bool, even_busy: bool) -> None:
    """Show finished RUNS: tables, and with -o a page with pictures."""
    import json

    from metaqap_fast.bench import report as reports
    from metaqap_fast.bench.runs import read

    found = [read(path) for path in runs]
    if as_json:
        click.echo(json.dumps([reports.document(run, even_busy) for run in found], indent=1))
    else:
        click.echo("\n\n".join(reports.text(run, even_busy) for run in found))
        for section in reports.repeated(found, even_busy):
            click.echo(reports.plain(section))
    if output is not None:
        try:
            output.write_text(reports.page(found, even_busy), encoding="utf-8")
        except OSError as error:
            raise MetaqapError(f"cannot write {output}: {error.strerror}") from None
        click.echo(f"written to {output}", err=True)


@bench.command()
@click.argument("documents", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--root", default=".", show_default=True, type=_PATH, help="Folder that the runs' names start from.")
def quote(documents: tuple[Path, ...], root: Path) -> None:
    """Write the tables of committed runs into DOCUMENTS, between <!-- bench: FOLDER --> and <!-- end -->."""
    from metaqap_fast.bench.quote import quoted

    for path in documents:
        path.write_text(quoted(path.read_text(encoding="utf-8"), root), encoding="utf-8")
