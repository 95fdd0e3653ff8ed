"""The `bench` commands: options in, calls of `metaqap_fast.bench` out."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from metaqap_fast.errors import MetaqapError, UsageError

if TYPE_CHECKING:
    from metaqap_fast.bench.runs import Recorder
    from metaqap_fast.bench.sampling import Case

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


@click.group()
def bench() -> None:
    """Measure: how fast, where the time goes, how good. docs/benchmarks.md has the rules."""


@bench.command()
@_images
@_MODEL
@_DEVICE
@click.option("--engines", default="auto", show_default=True, metavar="E,...", help="auto, tensorrt, openvino, torch.")
@click.option("--precisions", default="auto", show_default=True, metavar="P,...", help="auto, fp32, bf16, fp16, int8.")
@click.option("--batch-sizes", default="auto", show_default=True, metavar="N,...")
@click.option("--threads", default="auto", show_default=True, metavar="N,...", help="CPUs that a run may use.")
@_sampling
def throughput(engines: str, precisions: str, batch_sizes: str, threads: str, **options: Any) -> None:
    """Time each stage alone and the whole run, on DIR or on generated images."""
    from metaqap_fast.bench.throughput import Grid, cases
    from metaqap_fast.engine import ENGINES, PRECISIONS

    axes = {
        "engines": _choices("engine", engines, ENGINES),
        "precisions": _choices("precision", precisions, PRECISIONS),
        "batches": _numbers("--batch-sizes", batch_sizes),
        "threads": _numbers("--threads", threads),
    }
    model, device = options["model"], options["device"]
    _check_model(model)
    with _sources(**_taken(options)) as sources:
        grid = Grid(sources, **axes, model=model, device=device, count=options["count"])
        _time("throughput", cases(grid), {**axes, "model": model, "device": device}, sources, options)


@bench.command()
@_images
@_MODEL
@_DEVICE
@click.option("--engine", default="auto", show_default=True, metavar="E")
@click.option("--precisions", default="fp32,bf16,int8", show_default=True, metavar="P,...")
@_sampling
def limit(engine: str, precisions: str, **options: Any) -> None:
    """Time the machine's own ceilings and hold each stage against its own, with a roofline."""
    from metaqap_fast.bench.limits import cases
    from metaqap_fast.bundle import load
    from metaqap_fast.engine import ENGINES, PRECISIONS

    wanted = _choices("precision", precisions, PRECISIONS[1:])
    _choices("engine", engine, ENGINES)
    if "," in options["sizes"]:
        raise UsageError("--sizes: the limits are measured on one size")
    bundle = load(options["model"])
    settings = {"model": options["model"], "device": options["device"], "engine": engine}
    with _sources(**_taken(options)) as sources:
        every = {**settings, "batch_size": None, "count": options["count"]}
        _time("limit", cases(sources, wanted, bundle, every), {**settings, "precisions": wanted}, sources, options)


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
    from metaqap_fast.bench.peers import PEERS, cases
    from metaqap_fast.engine import ENGINES, PRECISIONS

    chosen = _choices("peer", names, list(PEERS))
    wanted = _choices("precision", precisions, PRECISIONS)
    _choices("engine", engine, ENGINES)
    others = dict(_pair(text, chosen) for text in pythons)
    _check_model(options["model"])
    settings = {"model": options["model"], "device": options["device"], "engine": engine}
    with _sources(**_taken(options)) as sources:
        every = {**settings, "count": options["count"]}
        told = {**settings, "precisions": wanted, "peers": chosen, "own_environment": sorted(others)}
        _time("peers", cases(sources, chosen, wanted, every, others), told, sources, options)


@bench.command()
@click.option("--set", "sets", multiple=True, metavar="NAME=ROOT", help="A labelled set: biq2021, koniq10k, ... or csv.")
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
    from metaqap_fast.engine import PRECISIONS

    wanted = _choices("precision", precisions, PRECISIONS[1:])
    if not sets and pristine is None:
        raise UsageError("give labelled images (--set NAME=ROOT), photographs (--pristine FOLDER), or both")
    _check_model(options["model"])
    try:
        from metaqap_fast.bench.accuracy_run import changed, distorted, labelled, photographs
        from metaqap_fast.train.datasets import load
    except ImportError as error:
        raise MetaqapError(f"bench accuracy needs more packages: pip install 'metaqap-fast[bench]' ({error})") from None
    from metaqap_fast.scorer import Scorer

    def say(line: str) -> None:
        click.echo(line, err=True)

    names = [text.partition("=")[::2] for text in sets]
    data = [load(name, root, *((low, high) if name == "csv" else (None, None))) for name, root in names]
    pictures = photographs(pristine, photos) if pristine else []
    settings = {"sets": [name for name, _ in names], "images": count, "photos": len(pictures), "precisions": wanted}
    with _recording("accuracy", {**settings, **options}, {"output": output, "even_busy": False}) as record:
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

    from metaqap_fast.bench.scale import cases
    from metaqap_fast.bench.soak import make_images
    from metaqap_fast.bench.tiny import write_tiny

    numbers = sorted(set(_positive("--rows", rows)))
    counts = _positive("--workers", workers)
    with tempfile.TemporaryDirectory(prefix="metaqap-bench-") as work:
        folders = {}
        try:
            model = write_tiny(Path(work, "tiny"))
        except ModuleNotFoundError as error:
            raise MetaqapError(f"bench scale needs more packages: pip install 'metaqap-fast[bench]' ({error})") from None
        for number in numbers:
            folder = Path(work, str(number))
            folder.mkdir()
            make_images(folder, number)
            folders[number] = folder / "images"
        settings = {"rows": numbers, "workers": counts, "devices": devices}
        _time("scale", cases(folders, model, devices.split(","), counts), settings, {}, options)


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
    if output is not None:
        try:
            output.write_text(reports.page(found, even_busy), encoding="utf-8")
        except OSError as error:
            raise MetaqapError(f"cannot write {output}: {error.strerror}") from None
        click.echo(f"written to {output}", err=True)


def _taken(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("sources", "synthetic", "sizes", "count")}


@contextmanager
def _sources(
    sources: Sequence[str], synthetic: int | None, sizes: str, count: int | None
) -> Iterator[dict[str, list[str]]]:
    """Sources by the name of their size; generated ones go when the block ends."""
    import tempfile

    from metaqap_fast.bench.images import describe, generate, parse_size

    if bool(sources) == (synthetic is not None):
        raise UsageError("give folders of images or --synthetic N, one of the two")
    if synthetic is None:
        describe(sources, count)  # an error if there is none
        yield {"files": list(sources)}
        return
    names = [name for name in sizes.split(",") if name]
    for name in names:
        parse_size(name)
    with tempfile.TemporaryDirectory(prefix="metaqap-bench-") as folder:
        try:
            yield {name: [str(generate(Path(folder), name, synthetic))] for name in names}
        except ModuleNotFoundError as error:
            raise MetaqapError(f"--synthetic needs more packages: pip install 'metaqap-fast[bench]' ({error})") from None


def _time(
    kind: str, cases: Sequence[Case], settings: dict[str, Any], sources: dict[str, list[str]], options: dict[str, Any]
) -> None:
    """Run the cases into a run's folder, then show it."""
    from metaqap_fast.bench.images import describe
    from metaqap_fast.bench.sampling import Settings, sample

    how = Settings(options["repeats"], options["seconds"], options["patience"], options["seed"])
    images = {size: describe(paths, options.get("count")) for size, paths in sources.items()}
    sampling: dict[str, Any] = {"repeats": how.repeats, "seconds": how.seconds, "patience": how.patience, "seed": how.seed}
    sampling["cases"] = [case.name for case in cases]
    with _recording(kind, {**settings, **sampling, "images": images}, options) as record:
        sample(cases, record, how, lambda line: click.echo(line, err=True))


@contextmanager
def _recording(kind: str, settings: dict[str, Any], options: dict[str, Any]) -> Iterator[Recorder]:
    """A run's folder: finished and shown at the end of the block, left without its marker if that is interrupted."""
    from metaqap_fast.bench import report as reports
    from metaqap_fast.bench.runs import Recorder, default_path, read

    def terminate(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    record = Recorder(options["output"] or default_path(kind), kind, settings)
    signal.signal(signal.SIGTERM, terminate)
    try:
        yield record
    except (KeyboardInterrupt, SystemExit) as stop:
        click.echo(f"interrupted: {record.path} is no finished run, its samples are not reported", err=True)
        raise SystemExit(stop.code if isinstance(stop, SystemExit) else 130) from None
    run = read(record.finish())
    click.echo(reports.text(run, options["even_busy"]))
    click.echo(f"\nthe run is in {record.path}; a page: metaqap-fast bench report {record.path} -o page.html", err=True)


def _choices(what: str, text: str, known: Sequence[str]) -> list[str]:
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in known:
            raise UsageError(f"unknown {what} {name!r}: one of {', '.join(known)}")
    if not names:
        raise UsageError(f"no {what} given: one or more of {', '.join(known)}")
    return names


def _numbers(option: str, text: str) -> list[int | None]:
    values: list[int | None] = []
    for part in text.split(","):
        if part != "auto" and not (part.isdigit() and int(part)):
            raise UsageError(f"{option} {text!r}: auto or positive numbers, separated by commas")
        values.append(None if part == "auto" else int(part))
    return values


def _positive(option: str, text: str) -> list[int]:
    values = [value for value in _numbers(option, text) if value is not None]
    if not values or "auto" in text:
        raise UsageError(f"{option} {text!r}: positive numbers, separated by commas")
    return values


def _pair(text: str, peers: Sequence[str]) -> tuple[str, str]:
    name, equals, python = text.partition("=")
    if not equals or name not in peers or not python:
        raise UsageError(f"--python {text!r} is not PEER=PYTHON with one of {', '.join(peers)}")
    return name, python


def _check_model(model: str) -> None:
    from metaqap_fast.bundle import load

    load(model)
