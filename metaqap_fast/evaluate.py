"""How well scores agree with mean opinion scores: the protocol of the field, as pure functions.

SROCC, KROCC, PLCC (raw, and after a monotone 4-parameter logistic) and RMSE (after the logistic), each with
a bootstrap 95 % interval over images.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.errors import UsageError
from metaqap_fast.scores.table import ScoreTable

F64 = NDArray[np.float64]
METRICS = ("srocc", "plcc", "plcc_logistic", "krocc", "rmse")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics over `count` images: name -> (value, low, high), low and high the 95 % interval.

    `missing`: labelled images without a row; `failed`: labelled images whose row has no score.
    """

    count: int
    metrics: dict[str, tuple[float, float, float]]
    missing: list[str]
    failed: list[str]


def plcc(x: F64, y: F64) -> float:
    """Pearson's linear correlation of two [N] arrays; NaN where either is constant."""
    x, y = x - x.mean(), y - y.mean()
    norm = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / norm if norm > 0 else math.nan


def srocc(x: F64, y: F64) -> float:
    """Spearman's rank correlation, ties by mean rank."""
    from scipy.stats import rankdata

    return plcc(rankdata(x), rankdata(y))


def krocc(x: F64, y: F64) -> float:
    """Kendall's tau-b."""
    from scipy.stats import kendalltau

    return float(kendalltau(x, y).statistic)


def logistic(x: F64, b1: float, b2: float, b3: float, b4: float) -> F64:
    """(b1 - b2) / (1 + exp(-(x - b3) / |b4|)) + b2, monotone in x (VQEG)."""
    from scipy.special import expit

    return np.asarray((b1 - b2) * expit((x - b3) / max(abs(b4), 1e-12)) + b2)


def fit_logistic(x: F64, y: F64) -> tuple[float, float, float, float]:
    """Least-squares parameters of `logistic` from scores x to MOS y.

    Start: max y, min y, mean x, std x / 4, as VQEG gives it.
    """
    from scipy.optimize import least_squares

    start = np.array([y.max(), y.min(), x.mean(), max(x.std() / 4, 1e-6)])
    fit = least_squares(lambda b: logistic(x, *b) - y, start, method="lm", max_nfev=2000)
    b1, b2, b3, b4 = (float(value) for value in fit.x)
    return b1, b2, b3, b4


def measure(x: F64, y: F64) -> dict[str, float]:
    """All metrics of scores x [N] against MOS y [N]; RMSE in MOS units after the logistic."""
    fitted = logistic(x, *fit_logistic(x, y))
    return {
        "srocc": srocc(x, y),
        "plcc": plcc(x, y),
        "plcc_logistic": plcc(fitted, y),
        "krocc": krocc(x, y),
        "rmse": float(np.sqrt(np.mean((fitted - y) ** 2))),
    }


def bootstrap(x: F64, y: F64, draws: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of every metric: images redrawn with replacement, everything refitted."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(draws):
        index = rng.integers(0, len(x), len(x))
        rows.append(list(measure(x[index], y[index]).values()))
    low, high = np.nanpercentile(np.array(rows), [2.5, 97.5], axis=0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(METRICS)}


def evaluate(table: ScoreTable, labels: Mapping[str, float], draws: int = 1000) -> Evaluation:
    """Compare the scored images that have a label with their labels.

    Args:
        table: scores; rows without a label play no part.
        labels: MOS by image name, see `read_labels`. A name matches a row's whole path, else its last
            component, else that without regard to case.
        draws: bootstrap draws for the intervals.

    Raises:
        UsageError: fewer than 5 labelled images were scored, or a name fits several rows.
    """
    find = _finder(table)
    x, y, missing, failed = [], [], [], []
    for name, mos in labels.items():
        row = find(name)
        if row is None:
            missing.append(name)
        elif not table.ok[row]:
            failed.append(name)
        else:
            x.append(table.score[row])
            y.append(mos)
    if len(x) < 5:
        raise UsageError(
            f"only {len(x)} of {len(labels)} labelled images have a score; at least 5 are needed "
            f"(missing, for example: {', '.join(missing[:3]) or 'none'})"
        )
    scores, mos_values = np.array(x, np.float64), np.array(y, np.float64)
    values, intervals = measure(scores, mos_values), bootstrap(scores, mos_values, draws)
    return Evaluation(len(x), {n: (values[n], *intervals[n]) for n in METRICS}, missing, failed)


def _finder(table: ScoreTable) -> Callable[[str], int | None]:
    """Row number of a label's name, by ever looser rules; an ambiguous name is an error."""
    rules: list[Callable[[str], str]] = [
        os.path.normpath,
        os.path.basename,
        lambda name: os.path.basename(name).lower(),  # BIQ2021 lists a .jpg that is a .JPG on disk
    ]
    indexes: list[dict[str, list[int]]] = []
    for rule in rules:
        index: dict[str, list[int]] = {}
        for row, path in enumerate(table.paths):
            index.setdefault(rule(path), []).append(row)
        indexes.append(index)

    def find(name: str) -> int | None:
        for rule, index in zip(rules, indexes, strict=True):
            rows = index.get(rule(name), [])
            if len(rows) > 1:
                where = ", ".join(table.paths[row] for row in rows[:3])
                raise UsageError(f"the label {name!r} fits several rows: {where}")
            if rows:
                return rows[0]
        return None

    return find


_NAMES = ("image name", "image_name", "image", "name", "path", "file", "filename", "file_name", "dist_img")
_MOS = ("mos", "dmos", "score", "label", "mean_opinion_score")


def read_labels(path: str | os.PathLike[str]) -> dict[str, float]:
    """Labels from a csv with a header: a name column and a MOS column (see `_NAMES`, `_MOS`).

    Raises:
        UsageError: no such file, no such columns, a duplicate name, a MOS that is no finite number; the
            message names the line.
    """
    path = Path(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} is not a csv file: {error}") from None
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    name_at = next((header.index(name) for name in _NAMES if name in header), None)
    mos_at = next((header.index(name) for name in _MOS if name in header), None)
    if name_at is None or mos_at is None:
        raise UsageError(
            f"{path}: the first line must name the columns, one of {', '.join(_NAMES)} "
            f"and one of {', '.join(_MOS)}; it has {', '.join(header) or 'nothing'}"
        )
    labels: dict[str, float] = {}
    for number, row in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        if max(name_at, mos_at) >= len(row):
            raise UsageError(f"{path} line {number}: no name and number in {','.join(row)!r}")
        add_label(labels, f"{path} line {number}", row[name_at], row[mos_at])
    return labels


def add_label(labels: dict[str, float], where: str, name: str, mos: str | float) -> None:
    """Add one row of a label table, checked; `where` says which row it is.

    Raises:
        UsageError: no name, a MOS that is no finite number, a name that is there already.
    """
    name = name.strip()
    try:
        value = float(mos)
    except ValueError:
        raise UsageError(f"{where}: the MOS of {name!r} is {mos!r}, not a number") from None
    if not name or not math.isfinite(value):
        raise UsageError(f"{where}: {'no name' if not name else f'the MOS of {name!r} is {value}'}")
    if name in labels:
        raise UsageError(f"{where}: {name!r} stands there twice")
    labels[name] = value
