"""What the `bench` commands share: images, the recorded run, and options that are lists."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from metaqap_fast import signals
from metaqap_fast.bench import report
from metaqap_fast.bench.images import describe, generate, parse_size
from metaqap_fast.bench.runs import Recorder, default_path, read
from metaqap_fast.bench.sampling import Case, Settings, sample
from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.model.bundle import load


def taken(options: dict[str, Any]) -> dict[str, Any]:
    """The options of `sources`."""
    return {name: options[name] for name in ("sources", "synthetic", "sizes", "count")}


@contextmanager
def sources(
    sources: Sequence[str], synthetic: int | None, sizes: str, count: int | None
) -> Iterator[dict[str, list[str]]]:
    """Sources by the name of their size; generated ones go when the block ends."""
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
        yield {name: [str(generate(Path(folder), name, synthetic))] for name in names}


def time_cases(
    kind: str, cases: Sequence[Case], settings: dict[str, Any], sources: dict[str, list[str]], options: dict[str, Any]
) -> None:
    """Run the cases into a run's folder, then show it."""
    sampling = Settings(options["repeats"], options["seconds"], options["patience"], options["seed"])
    images = {size: describe(paths, options.get("count")) for size, paths in sources.items()}
    told = {**settings, **asdict(sampling), "cases": [case.name for case in cases], "images": images}
    with recording(kind, told, options) as record:
        timed = sample(cases, record, sampling, lambda line: click.echo(line, err=True))
    if not timed:
        raise MetaqapError("nothing could be timed; the reasons stand above")


@contextmanager
def recording(kind: str, settings: dict[str, Any], options: dict[str, Any]) -> Iterator[Recorder]:
    """A run's folder: finished and shown at the end of the block, left without its marker if that is interrupted."""
    record = Recorder(options["output"] or default_path(kind), kind, settings)
    try:
        with signals.as_exceptions():
            yield record
    except signals.INTERRUPTIONS as stop:
        click.echo(f"interrupted: {record.path} is not finished: its samples are not reported", err=True)
        raise SystemExit(signals.exit_status(stop)) from None
    run = read(record.finish())
    click.echo(report.text(run, options["even_busy"]))
    click.echo(f"\nthe run is in {record.path}; a page: metaqap-fast bench report {record.path} -o page.html", err=True)


def choices(what: str, text: str, known: Sequence[str]) -> list[str]:
    """Names separated by commas.

    Raises:
        UsageError: one that is not known, or none.
    """
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in known:
            raise UsageError(f"unknown {what} {name!r}: one of {', '.join(known)}")
    if not names:
        raise UsageError(f"no {what} given: one or more of {', '.join(known)}")
    return names


def numbers(option: str, text: str) -> list[int | None]:
    """Positive numbers separated by commas; None for `auto`.

    Raises:
        UsageError: something else.
    """
    values: list[int | None] = []
    for part in text.split(","):
        if part != "auto" and not (part.isdigit() and int(part)):
            raise UsageError(f"{option} {text!r}: auto or positive numbers, separated by commas")
        values.append(None if part == "auto" else int(part))
    return values


def threads(text: str) -> list[int | None]:
    """Numbers of CPUs.

    Raises:
        UsageError: more than this process may use.
    """
    found, allowed = numbers("--threads", text), len(os.sched_getaffinity(0))
    if max(number or 1 for number in found) > allowed:
        raise UsageError(f"--threads {text!r}: this process may use {allowed} CPUs")
    return found


def positive(option: str, text: str) -> list[int]:
    """The same without `auto`."""
    values = [value for value in numbers(option, text) if value is not None]
    if not values or "auto" in text:
        raise UsageError(f"{option} {text!r}: positive numbers, separated by commas")
    return values


def pair(text: str, peers: Sequence[str]) -> tuple[str, str]:
    """PEER=PYTHON.

    Raises:
        UsageError: it is not, or of an unknown peer.
    """
    name, equals, python = text.partition("=")
    if not equals or name not in peers or not python:
        raise UsageError(f"--python {text!r} is not PEER=PYTHON with one of {', '.join(peers)}")
    return name, python


def model_name(model: str) -> str:
    """Name of a bundle, for the record: a folder would name the machine.

    Raises:
        UsageError, BundleError: there is none.
    """
    return load(model).name
