"""The table for strangers: every labelled set by its family, and beside it what other measures reach."""

from __future__ import annotations

from typing import Any

import numpy as np

from metaqap_fast.bench.accuracy import FEWEST, METRIC_DRAWS, Rows, column, mean, metrics
from metaqap_fast.bench.baselines import title
from metaqap_fast.bench.figures import Section
from metaqap_fast.bench.quality import coverage
from metaqap_fast.bench.stats import Interval
from metaqap_fast.evaluation import METRICS, srocc

SETS = "Sets by family"
_OF_AN_IMAGE = {"case", "set", "name", "mos"}  # in the rows of baselines; all else is what a measure says
_COLUMNS = ("family", "set", "part", "opinions", "images", "SROCC", "PLCC", "KROCC", "SROCC within a content")
_NOTE = (
    "95 % bootstrap intervals over images. `within a content` is the mean over all that show the same. The columns of "
    "other measures are SROCC on the images given; `ranked better by` names those above the model there, with the "
    "interval of the difference. Intervals are asked about opinions on a scale alone."
)


def strangers(rows: Rows, baselines: Rows) -> Section:
    """Agreement and coverage for every set and each group of it, and which other measures rank its images better."""
    others = list(dict.fromkeys(name for row in baselines for name in row if name not in _OF_AN_IMAGE))
    measured = {(row["set"], row["name"]): row for row in baselines}
    table: list[list[Any]] = []
    for family, name in sorted({(row["family"], row["set"]) for row in rows}):
        group = [row for row in rows if row["set"] == name]
        table.append(_line(family, name, group, others, measured))
        parts = list(dict.fromkeys(row["group"] for row in group if row.get("group")))
        for part in parts if len(parts) > 1 else ():
            chosen = [row for row in group if row["group"] == part]
            table.append(_line(family, f"{name}: {part}", chosen, others, measured))
    beside = ["images of other measures", "SROCC there", *map(title, others), "ranked better by"] if others else []
    return Section(SETS, [*_COLUMNS, "inside the 95 % interval", *beside, "licence"], table, _NOTE)


def _line(family: str, name: str, group: Rows, others: list[str], measured: dict[tuple[str, str], Any]) -> list[Any]:
    good = [row for row in group if row["score"] is not None]
    found = dict(zip(METRICS, metrics(good), strict=True))
    line = [family, name, group[0]["part"], group[0]["opinions"], len(good)]
    line += [found[metric] for metric in ("srocc", "plcc", "krocc")]
    line += [within(good), _inside(good)]
    if others:
        both = [(row, measured[row["set"], row["name"]]) for row in good if (row["set"], row["name"]) in measured]
        ours = [row for row, _ in both]
        line += [len(both), _rank(ours, "score"), *(_rank([other for _, other in both], each) for each in others)]
        line.append("; ".join(filter(None, (better(both, each) for each in others))) or "none")
    return [*line, group[0]["licence"]]


def within(rows: Rows) -> Any:
    """Mean SROCC over contents that have enough images; empty where nothing says what an image shows."""
    contents: dict[str, Rows] = {}
    for row in rows:
        if row.get("content"):
            contents.setdefault(row["content"], []).append(row)
    found = [srocc(column(some, "score"), column(some, "mos")) for some in contents.values() if len(some) >= FEWEST]
    values = np.array(found, np.float64)
    return mean(values[np.isfinite(values)]) if len(values) else ""


def better(both: list[tuple[dict[str, Any], dict[str, Any]]], name: str) -> str:
    """By how much a measure ranks the same images better than the scores do, with its interval; empty if not."""
    known = [(row, other) for row, other in both if other.get(name) is not None]
    if len(known) < FEWEST:
        return ""
    score, mos = (column([row for row, _ in known], key) for key in ("score", "mos"))
    value = column([other for _, other in known], name)
    difference = srocc(value, mos) - srocc(score, mos)
    if not difference > 0:
        return ""
    rng = np.random.default_rng(0)
    draws: list[float] = []
    for _ in range(METRIC_DRAWS):
        at = rng.integers(0, len(known), len(known))
        draws.append(srocc(value[at], mos[at]) - srocc(score[at], mos[at]))
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return f"{title(name)} by {Interval(difference, float(low), float(high), len(known))}"


def _inside(rows: Rows) -> Any:
    """Share of opinions inside the 95 % interval; opinions of other kinds are on no scale that the score has."""
    if not rows or rows[0]["opinions"] != "scale":
        return ""
    return mean(coverage(column(rows, "mos"), column(rows, "score"), column(rows, "uncertainty"))[95])


def _rank(rows: Rows, name: str) -> Any:
    """SROCC where a measure says something."""
    known = [row for row in rows if row.get(name) is not None]
    if len(known) < FEWEST:
        return f"under {FEWEST} images"
    return srocc(column(known, name), column(known, "mos"))
