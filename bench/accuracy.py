"""How good are the scores: tables from the raw rows that `accuracy_run` records.

Rows by their case: `set` (one image of a labelled set in one precision), `distortion` (one photograph under one
distortion at all levels), `change` (one photograph after a harmless change), `unavailable` (a precision that cannot
run here), `stranger` (one image of a set of a table) and `baseline` (what other measures say of it).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from metaqap_fast.bench import plots, stats
from metaqap_fast.bench.figures import Figures, Section
from metaqap_fast.bench.quality import F64, LEVELS, coverage, ordered_pairs
from metaqap_fast.bench.stats import Interval
from metaqap_fast.evaluation import METRICS, bootstrap, measure, srocc

Rows = list[dict[str, Any]]
FEWEST = 5  # images that a correlation needs
METRIC_DRAWS = 200  # each fits a logistic again


def sections(figures: Figures) -> list[Section]:
    """Agreement with opinions, calibration, parity of precisions, monotonicity, robustness: what was measured of it."""
    samples = figures.run.samples
    by_case: dict[str, Rows] = {}
    for sample in samples:
        by_case.setdefault(sample["case"], []).append(sample)
    made = []
    sets = by_case.get("set", [])
    if sets:
        made += [agreement(sets), calibration(sets)]
    if sets or "unavailable" in by_case:
        made.append(parity(sets, by_case.get("unavailable", [])))
    if "stranger" in by_case:
        from metaqap_fast.bench.families import strangers

        made.append(strangers(by_case["stranger"], by_case.get("baseline", [])))
    if "distortion" in by_case:
        made.append(monotonicity(by_case["distortion"]))
    if "change" in by_case:
        made.append(robustness(by_case["change"]))
    return made


def agreement(rows: Rows) -> Section:
    """Correlations with MOS, also without test images that have a twin in training."""
    table = []
    for name, precision in _groups(rows):
        group = [row for row in rows if (row["set"], row["precision"]) == (name, precision)]
        subsets = {"all": group}
        if any(row.get("twin") for row in group):
            subsets["without twins"] = [row for row in group if not row["twin"]]
        for subset, chosen in subsets.items():
            good = [row for row in chosen if row["score"] is not None]
            table.append([name, subset, precision, len(good), len(chosen) - len(good), *metrics(good)])
    columns = ["set", "images", "precision", "scored", "failed", *(metric.upper() for metric in METRICS)]
    return Section("Agreement with opinion scores", columns, table, "95 % bootstrap intervals over images.")


def metrics(rows: Rows) -> list[Any]:
    """Every metric of `evaluate` with its interval."""
    if len(rows) < FEWEST:
        return [f"under {FEWEST} images"] * len(METRICS)
    score, mos = column(rows, "score"), column(rows, "mos")
    values, intervals = measure(score, mos), bootstrap(score, mos, METRIC_DRAWS)
    return [Interval(values[name], *intervals[name], len(rows)) for name in METRICS]


def calibration(rows: Rows) -> Section:
    """Share of images whose MOS is inside the interval of each level."""
    table = []
    for name, precision in _groups(rows):
        good = [row for row in rows if (row["set"], row["precision"]) == (name, precision) and row["score"] is not None]
        inside = coverage(*(column(good, key) for key in ("mos", "score", "uncertainty")))
        table.append([name, precision, *(mean(inside[level]) for level in LEVELS)])
    columns = ["set", "precision", *(f"inside the {level} % interval" for level in LEVELS)]
    return Section(
        "Calibration of the uncertainty", columns, table, "Normal intervals: 1 and 1.96 standard deviations."
    )


def parity(rows: Rows, unavailable: Rows) -> Section:
    """Every precision against the first one on the same images."""
    table: list[list[Any]] = []
    for name in dict.fromkeys(row["set"] for row in rows):
        precisions = list(dict.fromkeys(row["precision"] for row in rows if row["set"] == name))
        scored = {p: {r["name"]: r for r in rows if (r["set"], r["precision"]) == (name, p)} for p in precisions}
        first = scored[precisions[0]]
        for precision in precisions[1:]:
            keys = [k for k, r in scored[precision].items() if r["score"] is not None and first[k]["score"] is not None]
            old, new = (column([group[k] for k in keys], "score") for group in (first, scored[precision]))
            mos = column([first[k] for k in keys], "mos")
            lost = srocc(old, mos) - srocc(new, mos) if len(keys) >= FEWEST else f"under {FEWEST} images"
            moved = np.abs(new - old)
            table.append([name, precision, precisions[0], float(moved.max()), float(moved.mean()), lost])
    table += [["", row["precision"], "", row["reason"], "", ""] for row in unavailable]
    columns = ["set", "precision", "against", "largest difference", "mean difference", "SROCC lost"]
    return Section("Parity of precisions", columns, table)


def monotonicity(rows: Rows) -> Section:
    """Share of correctly ordered pairs of levels for each distortion; the interval is over photographs."""
    table: list[list[Any]] = []
    bars, shares = [], []
    for kind in sorted({row["kind"] for row in rows}):
        group = [row for row in rows if row["kind"] == kind]
        scores = np.array([row["scores"] for row in group], np.float64)
        scores = scores[np.isfinite(scores).all(1)]
        cells = [float(value) for value in scores.mean(0)] if len(scores) else ["-"] * len(group[0]["scores"])
        share: Any = "levels are not an order"
        if group[0]["ordered"] and len(scores):
            share = mean(ordered_pairs(scores))
            shares.append(ordered_pairs(scores))
            bars.append((group[0]["distortion"], share))
        table.append([kind, group[0]["distortion"], len(scores), share, *cells])
    if shares:
        table.append(["", "all that are ordered", "", mean(np.concatenate(shares)), *[""] * len(rows[0]["scores"])])
    levels = [f"mean score at {level + 1}" for level in range(len(rows[0]["scores"]))]
    picture = [partial(plots.bars, "Correctly ordered pairs of levels", bars, limit=1.0)] if bars else []
    return Section("Monotonicity", ["", "distortion", "photographs", "ordered pairs", *levels], table, "", picture)


def robustness(rows: Rows) -> Section:
    """How far harmless changes move a score."""
    table = []
    for change in dict.fromkeys(row["change"] for row in rows):
        group = [
            row for row in rows if row["change"] == change and row["before"] is not None and row["after"] is not None
        ]
        moved = np.abs(column(group, "after") - column(group, "before"))
        table.append([change, len(group), mean(moved), float(moved.max()) if len(moved) else "-"])
    columns = ["change", "photographs", "mean change of the score", "largest"]
    return Section("Robustness", columns, table, "Absolute change on the score's scale from 0 to 1.")


def mean(values: F64) -> Any:
    """Mean with its bootstrap interval; a dash without values."""
    return stats.mean(values) if len(values) else "-"


def column(rows: Sequence[dict[str, Any]], name: str) -> F64:
    """One value of each row."""
    return np.array([row[name] for row in rows], np.float64)


def _groups(rows: Rows) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["set"], row["precision"]) for row in rows))
