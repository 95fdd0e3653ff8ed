"""Does the time per row stay flat: 10^3 to 10^6 rows, and 1, 2, 4, ... workers, with a model that costs nothing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from metaqap_fast.bench import plots
from metaqap_fast.bench.figures import Figures, NoFigure, Section, cell, median, over
from metaqap_fast.bench.job import Work
from metaqap_fast.bench.sampling import Case
from metaqap_fast.bench.soak import make_images
from metaqap_fast.bench.stats import Interval, exponent

Options = dict[str, Any]


def rows(options: Options) -> Work:
    """One process: names to a score file; the model is compiled before."""
    from metaqap_fast.input.files import Listing
    from metaqap_fast.run import run
    from metaqap_fast.scorer import Scorer

    scorer = Scorer(model=options["model"], device=options["devices"][0])
    facts: dict[str, Any] = {}

    def work(sources: Sequence[str] = options["sources"]) -> float:
        with tempfile.TemporaryDirectory() as folder:
            summary = run(scorer, Listing(sources), os.path.join(folder, "scores.h5"))
        facts["scored"] = summary.scored
        return float(summary.images)

    first = next(iter(Path(options["sources"][0]).rglob("*.ppm")))
    return Work(work, lambda: work([str(first)]), scorer.close, "rows", facts)


def workers(options: Options) -> Work:
    """A process for each device; their start counts, as it does for a user."""
    from metaqap_fast.input import open_sources
    from metaqap_fast.scale.shards import run_shards

    facts: dict[str, Any] = {}

    def work() -> float:
        with tempfile.TemporaryDirectory() as folder:
            output = os.path.join(folder, "scores.h5")
            source = open_sources(options["sources"])
            summary = run_shards(options["devices"], source, output, "new", {"model": options["model"]})
        facts["scored"] = summary.scored
        return float(summary.images)

    return Work(work, unit="rows", facts=facts)


WORKS: dict[str, Callable[[Options], Work]] = {"rows": rows, "workers": workers}


def folders(work: Path, numbers: Sequence[int]) -> dict[int, Path]:
    """A folder of generated images for each number of rows."""
    found = {}
    for number in numbers:
        (work / str(number)).mkdir()
        make_images(work / str(number), number)
        found[number] = work / str(number) / "images"
    return found


def cases(folders: Mapping[int, Path], model: Path, devices: Sequence[str], counts: Sequence[int]) -> list[Case]:
    """Every number of rows in one process; the largest number of rows by 1, 2, ... workers on the devices in turn."""
    found = []
    for number, folder in folders.items():
        options = {"sources": [str(folder)], "model": str(model), "devices": list(devices[:1])}
        found.append(Case(f"{number} rows", "scale.rows", options, {"axis": "rows", "rows": number}))
    number, folder = max(folders.items())
    for count in counts:
        chosen = [devices[i % len(devices)] for i in range(count)]
        options = {"sources": [str(folder)], "model": str(model), "devices": chosen}
        labels = {"axis": "workers", "rows": number, "workers": count}
        found.append(Case(f"{count} workers", "scale.workers", options, labels))
    return found


def sections(figures: Figures) -> list[Section]:
    """Time and memory per row over rows with the fitted exponent, and speed over workers."""
    by_rows = {n: labels for n, labels in figures.labels().items() if labels["axis"] == "rows"}
    by_workers = {n: labels for n, labels in figures.labels().items() if labels["axis"] == "workers"}
    table = [
        [
            labels["rows"],
            median(_microseconds, figures, name),
            median(figures.peak_mb, name),
        ]
        for name, labels in sorted(by_rows.items(), key=lambda item: item[1]["rows"])
    ]
    growth = [
        ["time", cell(_exponent, figures, by_rows, _seconds)],
        ["memory", cell(_exponent, figures, by_rows, Figures.peak_mb)],
    ]
    made = [
        Section("Time per row", ["rows", "microseconds / row", "peak MB"], table, pictures=_picture(figures, by_rows)),
        Section(
            "Growth with rows",
            ["what", "exponent"],
            growth,
            "The power of rows that it grows with: time 1 is a flat time per row, memory 0 is constant memory.",
        ),
    ]
    if by_workers:
        first = next(iter(by_workers))
        speeds = [
            [labels["workers"], labels["rows"], median(figures.rates, name),
             over(figures.rates, name, first)]
            for name, labels in by_workers.items()
        ]  # fmt: skip
        note = "With the start of the processes. On a CPU the workers share its cores."
        made.append(Section("Workers", ["workers", "rows", "rows/s", "over the first"], speeds, note))
    return made


def _microseconds(figures: Figures, name: str) -> list[float]:
    return [1e6 / rate for rate in figures.rates(name)]


def _seconds(figures: Figures, name: str) -> list[float]:
    return [sample["seconds"] / sample["calls"] for sample in figures.good(name)]


def _exponent(
    figures: Figures, cases: Mapping[str, Any], values: Callable[[Figures, str], Sequence[float]]
) -> Interval:
    points = [(labels["rows"], value) for name, labels in cases.items() for value in values(figures, name)]
    try:
        return exponent([float(x) for x, _ in points], [y for _, y in points])
    except ValueError as error:
        raise NoFigure(str(error)) from None


def _picture(figures: Figures, cases: Mapping[str, Any]) -> list[plots.Picture]:
    try:
        points = [(float(labels["rows"]), y) for name, labels in cases.items() for y in _microseconds(figures, name)]
    except NoFigure:
        return []
    series = [plots.Series("samples", points)]
    return [partial(plots.log_plot, "Time per row", "rows", "microseconds per row", series)]
