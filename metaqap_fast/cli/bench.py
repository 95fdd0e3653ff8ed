"""The `bench` commands: options in, calls of `metaqap_fast.bench` out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from metaqap_fast.cli import shared
from metaqap_fast.errors import UsageError
from metaqap_fast.options import ENGINES, PRECISIONS

F = TypeVar("F", bound=Callable[..., Any])
_PATH = click.Path(path_type=Path)
_OUTPUT = click.option("-o", "--output", type=_PATH, help="Folder to write the run to.  [default: bench-KIND-TIME]")
_DRAFT = click.option(
    "--even-busy", is_flag=True, help="Also show repetitions on a busy machine, which are not results."
)


def _sampling(command: F) -> F:
    """The options of everything that is timed."""
    one_or_more, seconds = click.IntRange(min=1), shared.Real(min=0)
    for option in (
        click.option(
            "--repeats", type=one_or_more, default=5, show_default=True, metavar="N", help="Repetitions of each case."
        ),
        click.option("--seconds", type=seconds, default=1.0, show_default=True, metavar="S", help="Least time of one."),
        click.option(
            "--patience", type=seconds, default=10.0, show_default=True, metavar="S",
            help="How long to wait for an idle machine before each repetition.",
        ),
        click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of the random order."),
        _DRAFT,
        _OUTPUT,
    ):  # fmt: skip
        command = option(command)
    return command


def _images(command: F) -> F:
    """Where images come from."""
    for option in (
        click.option(
            "--images",
            "count",
            type=click.IntRange(min=1),
            metavar="N",
            help="Use only the first N images.  [default: all]",
        ),
        click.option(
            "--sizes", default="512x512", show_default=True, metavar="WxH,...", help="Sizes of the generated images."
        ),
        click.option(
            "--synthetic",
            type=click.IntRange(min=1),
            metavar="N",
            help="Generate N JPEGs of each size, instead of DIR.",
        ),
        click.argument("sources", nargs=-1, metavar="[DIR]..."),
    ):
        command = option(command)
    return command


@click.group(cls=shared.needs("bench"), short_help="Measure speed and quality (extra: bench).")
def bench() -> None:
    """Measure speed, its limits, and quality (rules: docs/benchmarks.md)."""


@bench.command()
@_images
@shared.MODEL
@shared.DEVICE
@click.option(
    "--engines", default="auto", show_default=True, metavar="E,...", help=f"Engines to compare: {', '.join(ENGINES)}."
)
@click.option(
    "--precisions",
    default="auto",
    show_default=True,
    metavar="P,...",
    help=f"Precisions to compare: {', '.join(PRECISIONS)}.",
)
@click.option("--batch-sizes", default="auto", show_default=True, metavar="N,...", help="Batch sizes to compare.")
@click.option("--threads", default="auto", show_default=True, metavar="N,...", help="Numbers of CPUs to compare.")
@_sampling
def throughput(engines: str, precisions: str, batch_sizes: str, threads: str, **options: Any) -> None:
    """Time each stage and the whole run, on the images of DIR or on generated ones."""
    from metaqap_fast.bench import command
    from metaqap_fast.bench.throughput import Grid, cases

    axes: dict[str, Any] = {
        "engines": command.choices("engine", engines, ENGINES),
        "precisions": command.choices("precision", precisions, PRECISIONS),
        "batches": command.numbers("--batch-sizes", batch_sizes),
        "threads": command.threads(threads),
    }
    model, device = options["model"], options["device"]
    settings = {**axes, "model": command.model_name(model), "device": device}
    with command.sources(**command.taken(options)) as sources:
        grid = Grid(sources, **axes, model=model, device=device, count=options["count"])
        command.time_cases("throughput", cases(grid), settings, sources, options)


@bench.command()
@_images
@shared.MODEL
@shared.DEVICE
@click.option("--engine", default="auto", show_default=True, metavar="E", help="Engine to measure.")
@click.option(
    "--precisions", default="fp32,bf16,int8", show_default=True, metavar="P,...", help="Precisions to measure."
)
@_sampling
def limit(engine: str, precisions: str, **options: Any) -> None:
    """Compare each stage with the limits of the machine, measured in the same run, and draw a roofline."""
    from metaqap_fast.bench import command
    from metaqap_fast.bench.limits import cases
    from metaqap_fast.model.bundle import load

    wanted = command.choices("precision", precisions, PRECISIONS[1:])
    command.choices("engine", engine, ENGINES)
    if "," in options["sizes"]:
        raise UsageError("--sizes: the limits are measured on one size")
    bundle = load(options["model"])
    settings = {"model": bundle.name, "device": options["device"], "engine": engine}
    with command.sources(**command.taken(options)) as sources:
        every = {**settings, "model": options["model"], "batch_size": None, "count": options["count"]}
        command.time_cases(
            "limit", cases(sources, wanted, bundle, every), {**settings, "precisions": wanted}, sources, options
        )


@bench.command()
@_images
@shared.MODEL
@shared.DEVICE
@click.option("--engine", default="auto", show_default=True, metavar="E", help="Engine of this package.")
@click.option(
    "--precisions", default="fp32,bf16,int8", show_default=True, metavar="P,...", help="Precisions of this package."
)
@click.option(
    "--peers",
    "names",
    default="eager,compiled,onnxruntime,brisque",
    show_default=True,
    metavar="NAME,...",
    help="What to compare with; also piqe, laplacian, cleanvision and pyiqa:NAME.",
)
@click.option(
    "--python",
    "pythons",
    multiple=True,
    metavar="PEER=PYTHON",
    help="Run a peer with another Python, whose environment has metaqap-fast too.",
)
@_sampling
def peers(engine: str, precisions: str, names: str, pythons: tuple[str, ...], **options: Any) -> None:
    """Time other ways to do the same job. A peer that is not installed is skipped with a message."""
    from metaqap_fast.bench import command
    from metaqap_fast.bench.peers import cases
    from metaqap_fast.bench.peers import chosen as chosen_of

    chosen = chosen_of(names)
    wanted = command.choices("precision", precisions, PRECISIONS)
    command.choices("engine", engine, ENGINES)
    others = dict(command.pair(text, chosen) for text in pythons)
    settings = {"model": command.model_name(options["model"]), "device": options["device"], "engine": engine}
    with command.sources(**command.taken(options)) as sources:
        every = {**settings, "model": options["model"], "count": options["count"]}
        told = {**settings, "precisions": wanted, "peers": chosen, "own_environment": sorted(others)}
        command.time_cases("peers", cases(sources, chosen, wanted, every, others), told, sources, options)


@bench.command()
@click.option(
    "--set", "sets", multiple=True, metavar="NAME=ROOT", help="A labelled set: biq2021, koniq10k, ... or csv."
)
@click.option("--low", type=float, metavar="X", help="Lowest MOS on the scale of a csv.")
@click.option("--high", type=float, metavar="X", help="Highest MOS on the scale of a csv.")
@click.option(
    "--sets",
    "table",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Table of labelled sets with family, licence and recipe (docs/training.md), to measure beside the baselines.",
)
@click.option(
    "--baselines",
    default="brisque,piqe,laplacian,bytes",
    show_default=True,
    metavar="B,...",
    help="Other measures to compute on the images of --sets; also cleanvision and pyiqa:NAME.",
)
@click.option(
    "--baseline-images",
    "measured",
    type=click.IntRange(min=5),
    metavar="N",
    help="Compute these on N images of each set.  [default: all]",
)
@click.option(
    "--images", "count", type=click.IntRange(min=5), metavar="N", help="Use N images of each set.  [default: all]"
)
@click.option(
    "--twins/--no-twins",
    default=True,
    show_default=True,
    help="Also measure without images that have a near-duplicate in the training set.",
)
@click.option(
    "--pristine", type=click.Path(exists=True, path_type=Path), help="Folder of undamaged photographs to be distorted."
)
@click.option(
    "--photos", type=click.IntRange(min=1), default=20, show_default=True, metavar="N", help="How many of them to use."
)
@click.option(
    "--precisions", default="fp32,bf16,fp16,int8", show_default=True, metavar="P,...", help="Precisions to compare."
)
@shared.MODEL
@shared.DEVICE
@_OUTPUT
def accuracy(
    sets: tuple[str, ...],
    low: float | None,
    high: float | None,
    table: Path | None,
    baselines: str,
    measured: int | None,
    count: int | None,
    twins: bool,
    pristine: Path | None,
    photos: int,
    precisions: str,
    output: Path | None,
    **options: Any,
) -> None:
    """Measure how good scores are: against opinions, under distortions, and under harmless changes."""
    from metaqap_fast.bench import command

    wanted = command.choices("precision", precisions, PRECISIONS[1:])
    if not sets and pristine is None and table is None:
        raise UsageError(
            "give labelled images (--set NAME=ROOT or --sets TABLE), photographs (--pristine FOLDER), or both"
        )
    model = command.model_name(options["model"])
    from metaqap_fast.bench import accuracy_run
    from metaqap_fast.bench.baselines import available
    from metaqap_fast.train.sets import read_sets

    data = [accuracy_run.labelled_set(text, low, high) for text in sets]
    strangers = read_sets(table) if table else []
    measures = available([name for name in baselines.split(",") if name], _say) if table else {}
    pictures = accuracy_run.photographs(pristine, photos) if pristine else []
    settings = {
        "sets": [*(each.name for each in data), *(each.name for each in strangers)],
        "images": count,
        "baseline_images": measured,
        "photos": len(pictures),
        "precisions": wanted,
    }
    with command.recording(
        "accuracy", {**settings, **options, "model": model}, {"output": output, "even_busy": False}
    ) as record:
        for row in accuracy_run.rows(data, pictures, wanted, options, count, twins, _say):
            record.add(row)
        for row in accuracy_run.strangers(strangers, measures, wanted[0], options, count, measured, _say):
            record.add(row)


def _say(line: str) -> None:
    click.echo(line, err=True)


@bench.command()
@click.option("--rows", default="1000,10000", show_default=True, metavar="N,...", help="Numbers of rows to compare.")
@click.option(
    "--workers",
    default="1,2",
    show_default=True,
    metavar="N,...",
    help="Numbers of processes to compare, on the largest number of rows.",
)
@click.option(
    "--device",
    "devices",
    default="cpu",
    show_default=True,
    metavar="cpu|cuda:N,...",
    help="Devices that the processes use, in turn.",
)
@_sampling
def scale(rows: str, workers: str, devices: str, **options: Any) -> None:
    """Time a model that costs next to nothing, on growing numbers of rows and processes."""
    import tempfile

    from metaqap_fast.bench import command
    from metaqap_fast.bench.scale import cases, folders
    from metaqap_fast.bench.tiny import write_tiny

    numbers = sorted(set(command.positive("--rows", rows)))
    counts = command.positive("--workers", workers)
    with tempfile.TemporaryDirectory(prefix="metaqap-bench-") as work:
        made, model = folders(Path(work), numbers), write_tiny(Path(work, "tiny"))
        settings = {"rows": numbers, "workers": counts, "devices": devices}
        command.time_cases("scale", cases(made, model, devices.split(","), counts), settings, {}, options)


@bench.command()
@click.argument("runs", nargs=-1, required=True, type=_PATH)
@click.option("-o", "--output", type=_PATH, help="Write one self-contained HTML page.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_DRAFT
def report(runs: tuple[Path, ...], output: Path | None, as_json: bool, even_busy: bool) -> None:
    """Show finished RUNS: tables, and with -o a page with pictures."""
    import json

    from metaqap_fast.bench import report as reports
    from metaqap_fast.bench.runs import read

    if output is not None:
        from metaqap_fast.review.report import check_page_name

        check_page_name(output)
    found = [read(path) for path in runs]
    if as_json:
        click.echo(json.dumps([reports.document(run, even_busy) for run in found], indent=1))
    else:
        click.echo("\n\n".join(reports.text(run, even_busy) for run in found))
        for section in reports.repeated(found, even_busy):
            click.echo(reports.plain(section))
    if output is not None:
        reports.write_page(output, found, even_busy)
        click.echo(f"written to {output}", err=True)


@bench.command()
@click.argument("documents", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--root", default=".", show_default=True, type=_PATH, help="Folder that names of runs are relative to.")
def quote(documents: tuple[Path, ...], root: Path) -> None:
    """Write tables of runs into DOCUMENTS, between <!-- bench: FOLDER --> and <!-- end -->.

    With the name of a view before several folders it is one table of all of them: `hours` for runs of throughput,
    `beside` for one of peers and the JSON of one of accuracy.
    """
    from metaqap_fast.bench.quote import quoted

    for path in documents:
        path.write_text(quoted(path.read_text(encoding="utf-8"), root), encoding="utf-8")
