"""How fast is a run, and how close to its slowest stage: each stage alone and the whole, over all settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

from metaqap_fast.bench import plots
from metaqap_fast.bench.figures import Figures, NoFigure, Section, cell, median, over
from metaqap_fast.bench.sampling import Case
from metaqap_fast.bench.stages import STAGES
from metaqap_fast.bench.stats import Interval, ratio

# What the speed of a stage depends on; the whole depends on all of it.
MATTERS: dict[str, tuple[str, ...]] = {
    "listing": ("size",),
    "reading": ("size", "threads"),
    "decode": ("size", "batch", "threads"),
    "inference": ("size", "engine", "precision", "threads"),
    "combine": (),
    "write": (),
    "whole": ("size", "engine", "precision", "batch", "threads"),
}


@dataclass(frozen=True, slots=True)
class Grid:
    """The settings to run through. `sources`: folders by the name of their size."""

    sources: Mapping[str, Sequence[str]]
    engines: Sequence[str] = ("auto",)
    precisions: Sequence[str] = ("auto",)
    batches: Sequence[int | None] = (None,)
    threads: Sequence[int | None] = (None,)
    model: str = "default"
    device: str = "auto"
    count: int | None = None


def cases(grid: Grid) -> list[Case]:
    """Every stage once for each of the settings that matter to it."""
    found: dict[str, Case] = {}
    settings = product(grid.sources, grid.engines, grid.precisions, grid.batches, grid.threads)
    for size, engine, precision, batch, threads in settings:
        every: dict[str, Any] = {
            "size": size,
            "engine": engine,
            "precision": precision,
            "batch": batch,
            "threads": threads,
        }
        options = {
            "sources": list(grid.sources[size]), "count": grid.count, "model": grid.model, "device": grid.device,
            "engine": engine, "precision": precision, "batch_size": batch,
        }  # fmt: skip
        for stage in STAGES:
            labels: dict[str, Any] = {"stage": stage, **{name: every[name] for name in MATTERS[stage]}}
            name = title(labels)
            found.setdefault(name, Case(name, f"stage.{stage}", options, labels, labels.get("threads")))
    return list(found.values())


def title(labels: Mapping[str, Any]) -> str:
    """A case's name from its labels."""
    return " ".join(
        str(value) if name in ("stage", "size", "engine", "precision") else f"{name}={value or 'auto'}"
        for name, value in labels.items()
    )


def sections(figures: Figures) -> list[Section]:
    """Rates and efficiency, then costs: a row for each setting of the whole."""
    wholes = [labels for labels in figures.labels().values() if labels["stage"] == "whole"]
    rates, costs, bars = [], [], []
    for labels in wholes:
        name, setting = title(labels), [*(labels[key] or "auto" for key in MATTERS["whole"])]
        stages = parts(labels)
        slowest = cell(slowest_stage, figures, stages)
        efficiency: Any = slowest
        if slowest in stages:
            efficiency = over(figures.rates, name, stages[slowest])
        stage_rates = [median(figures.rates, part) for part in stages.values()]
        whole = median(figures.rates, name)
        rates.append([*setting, *stage_rates, whole, slowest, efficiency])
        costs.append(
            [
                *setting,
                figures.facts(name).get("engine", ""),
                figures.facts(name).get("precision", ""),
                *(median(figures.per_thousand, name, what) for what in ("cpu_seconds", "joules")),
                median(figures.peak_mb, name),
            ]
        )
        if isinstance(efficiency, Interval):
            bars.append((" ".join(map(str, setting)), efficiency))
    return [
        Section(
            "Images per second of each stage alone and of the whole",
            [*MATTERS["whole"], *STAGES, "slowest stage", "whole over slowest stage"],
            rates,
            "Medians with 95 % bootstrap intervals. A stage alone has all CPUs to itself; in a run they are shared.",
            [partial(plots.bars, "Whole run over its slowest stage", bars, limit=1.0)] if bars else [],
        ),
        Section(
            "Cost of the whole run",
            [*MATTERS["whole"], "engine used", "precision used", "CPU s / 1,000", "J / 1,000", "peak MB"],
            costs,
            "Of the process and its decoder; the preparation before the first image is not counted. "
            f"Energy: {meter(figures)}.",
        ),
    ]


def summary(figures: Figures) -> Section:
    """For quoting: each setting's images a second, and how much of what the stages allow together the whole reaches."""
    rows = []
    for labels in (labels for labels in figures.labels().values() if labels["stage"] == "whole"):
        whole, stages = title(labels), parts(labels)
        facts, rate = figures.facts(whole), median(figures.rates, whole)
        rows.append(
            [
                labels["size"],
                facts.get("engine", ""),
                facts.get("device", "").removeprefix("cpu: "),
                facts.get("precision", ""),
                median(figures.rates, stages["inference"]),
                rate,
                cell(lambda whole: ratio([1e6 / 3600], figures.rates(whole)), whole),
                cell(lambda whole, stages: ratio(figures.rates(whole), [allowed(figures, stages)]), whole, stages),
            ]
        )
    columns = ["size", "engine", "on", "precision", "inference, images/s", "whole, images/s", "hours for a million"]
    return Section(
        "Images per second of inference alone and of a whole run", [*columns, "whole over what its stages allow"], rows
    )


def parts(labels: Mapping[str, Any]) -> dict[str, str]:
    """The cases of a whole's stages, by stage."""
    return {stage: title({"stage": stage, **{key: labels[key] for key in MATTERS[stage]}}) for stage in STAGES[:-1]}


def allowed(figures: Figures, stages: Mapping[str, str]) -> float:
    """Images a second of stages that share the CPUs: 1 / sum of 1 / rate.

    Raises:
        NoFigure: a stage has none.
    """
    return 1 / sum(1 / ratio(figures.rates(case), [1.0]).value for case in stages.values())


def meter(figures: Figures) -> str:
    """What measured the energy, or why nothing did."""
    return next((sample["meter"] for sample in figures.run.samples if "meter" in sample), "nothing was timed")


def slowest_stage(figures: Figures, stages: Mapping[str, str]) -> str:
    """Name of the stage with the smallest median rate.

    Raises:
        NoFigure: a stage has no figure; the slowest might be that one.
    """
    medians = {}
    for stage, case in stages.items():
        try:
            medians[stage] = ratio(figures.rates(case), [1.0]).value
        except NoFigure as reason:
            raise NoFigure(f"{stage}: {reason}") from None
    return min(medians, key=lambda stage: medians[stage])
