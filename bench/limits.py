"""Each stage as percent of what the machine can do, both measured in one run; with a roofline of the members."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from metaqap_fast.bench import flops, native_parts, plots
from metaqap_fast.bench.figures import Figures, NoFigure, Section, cell, median
from metaqap_fast.bench.sampling import Case
from metaqap_fast.bench.stats import ratio
from metaqap_fast.model.bundle import Bundle

CEILINGS = ("copy", "jpeg", "disk_read", "disk_write")
GIGA = 1e9


def cases(
    sources: Mapping[str, Sequence[str]], precisions: Sequence[str], bundle: Bundle, options: Mapping[str, Any]
) -> list[Case]:
    """The ceilings, and the stages that are held against them: inference of every member alone and of all.

    `options`: model, engine, device, batch_size, count.
    """
    ((size, folders),) = sources.items()
    every = {**options, "sources": list(folders), "precision": "auto"}
    found = [Case(name, f"limit.{name}", every, {"ceiling": name, "size": size}) for name in CEILINGS]
    found += [
        Case("reading, cached", "stage.reading", every, {"stage": "reading"}),
        Case("reading, from the disk", "stage.reading", {**every, "cold": True}, {"stage": "reading"}),
        Case("decode", "stage.decode", every, {"stage": "decode"}),
        Case("combine", "stage.combine", every, {"stage": "combine"}),
        Case("write", "stage.write", every, {"stage": "write"}),
    ]
    for precision in precisions:
        here = {**every, "precision": precision}
        found.append(Case(f"gemm {precision}", "limit.gemm", here, {"ceiling": "gemm", "precision": precision}))
        found.append(Case(f"peak {precision}", "limit.peak", here, {"ceiling": "peak", "precision": precision}))
        found.append(Case(f"parts {precision}", "limit.times", here, {"stage": "parts", "precision": precision}))
        work = flops.count(bundle)
        for member in [None, *(each.name for each in bundle.members)]:
            if member is not None:
                from metaqap_fast.bench.stages import alone

                work = flops.count(alone(bundle, member))
            labels = {
                "stage": "inference", "precision": precision, "member": member,
                "operations": work.operations, "intensity": work.intensity(precision),
            }  # fmt: skip
            name = f"inference {precision} {member or 'all members'}"
            found.append(Case(name, "stage.inference", {**here, "member": member}, labels))
    return found


def sections(figures: Figures) -> list[Section]:
    """The ceilings, the stages in percent of theirs, and the roofline."""
    ceilings = [
        [name, median(_giga, figures, name), _unit(figures, name)]
        if name != "jpeg"
        else [name, median(figures.rates, "jpeg"), "images/s"]
        for name, labels in figures.labels().items()
        if "ceiling" in labels
    ]
    rows = [
        _row(figures, "reading, cached", "copy", lambda: 2 * _bytes(figures, "reading, cached"), "memory copy"),
        _row(figures, "reading, from the disk", "disk_read", lambda: _bytes(figures, "reading, from the disk"), "disk"),
        _row(figures, "decode", "jpeg", lambda: 1.0, "libjpeg-turbo"),
        _row(figures, "write", "disk_write", lambda: _bytes(figures, "write"), "disk"),
    ]
    for name, labels in figures.labels().items():
        if labels.get("stage") == "inference":
            precision = labels["precision"]
            units = _operations(figures, name, labels)
            rows.append(_row(figures, name, f"gemm {precision}", units, f"matrix product in {precision}"))
    rows.append(["combine", median(figures.rates, "combine"), "none: Python's own time", ""])
    series = roofline(figures)
    return [
        Section("Ceilings of this machine", ["", "measured", "unit"], ceilings),
        Section(
            "Stages in percent of their limit",
            ["stage", "images/s", "limit", "share of the limit"],
            rows,
            "Operations are those of convolutions and matrix products. Reading counts each byte read and written.",
            [partial(plots.log_plot, "Roofline", "operations per byte", "Gop/s", series)] if series else [],
        ),
        native_parts.section(figures, list(dict.fromkeys(_precisions(figures)))),
    ]


def _precisions(figures: Figures) -> Iterator[str]:
    return (labels["precision"] for labels in figures.labels().values() if labels.get("ceiling") == "gemm")


def roofline(figures: Figures) -> list[plots.Series]:
    """Operations per second over operations per byte: the members under the roofs of each precision."""
    series = []
    try:
        bandwidth = float(np.median(figures.rates("copy")))
    except NoFigure:
        return []
    precisions = dict.fromkeys(label["precision"] for label in figures.labels().values() if "operations" in label)
    for colour, precision in enumerate(precisions):
        try:
            peak = float(np.median(figures.rates(f"gemm {precision}")))
        except NoFigure:
            continue
        ridge = peak / bandwidth
        roof = [(x, min(peak, x * bandwidth) / GIGA) for x in (ridge / 100, ridge, max(1000.0, ridge * 2))]
        series.append(plots.Series(f"roof, {precision}", roof, True, colour))
        for name, labels in figures.labels().items():
            if labels.get("precision") == precision and labels.get("operations"):
                try:
                    rate = float(np.median(figures.rates(name))) * _operations(figures, name, labels)() / GIGA
                except NoFigure:
                    continue
                what = f"{labels['member'] or 'all members'}, {precision}"
                series.append(plots.Series(what, [(labels["intensity"], rate)], False, colour))
    return series


def _row(figures: Figures, case: str, ceiling: str, units: Callable[[], float], name: str) -> list[Any]:
    """A stage, its limit in words, and the share; `units` is what one image takes of the ceiling's."""

    def used() -> Any:
        return ratio([rate * units() for rate in figures.rates(case)], figures.rates(ceiling))

    return [case, median(figures.rates, case), name, cell(used)]


def _giga(figures: Figures, case: str) -> list[float]:
    return [rate / GIGA for rate in figures.rates(case)]


def _operations(figures: Figures, name: str, labels: Mapping[str, Any]) -> Callable[[], float]:
    return lambda: labels["operations"] * figures.facts(name).get("views_per_image", 1.0)


def _bytes(figures: Figures, case: str) -> float:
    figures.good(case)
    return float(figures.facts(case)["bytes_per_image"])


def _unit(figures: Figures, case: str) -> Any:
    return cell(lambda: {"operations": "Gop/s", "bytes": "GB/s"}.get(figures.good(case)[0]["unit"], ""))
