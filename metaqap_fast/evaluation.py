"""How well scores agree with mean opinion scores: the protocol of the field, as pure functions.

SROCC, KROCC, PLCC (raw, and after a monotone 4-parameter logistic) and RMSE (after the logistic), each with
a bootstrap 95 % interval over images.
"""

from __future__ import annotations

import csv
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.errors import UsageError, kind
from metaqap_fast.scores.export import in_pieces
from metaqap_fast.scores.table import ScoreTable

T = TypeVar("T")
F64 = NDArray[np.float64]
METRICS = ("srocc", "plcc", "plcc_logistic", "krocc", "rmse")
LEVEL = 0.95  # of the intervals
DRAWS = 1000
LEAST = 5  # images; the logistic has four parameters
_DRAWN = 1 << 22  # numbers drawn at once: memory does not grow with the number of images


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics over `count` images: name -> (value, low, high), low and high the 95 % interval.

    A metric that is not defined is NaN, and `reason` says why. `missing`: labelled images without a row; `failed`:
    labelled images whose row has no score.
    """

    count: int
    metrics: dict[str, tuple[float, float, float]]
    missing: list[str]
    failed: list[str]
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which has no NaN: None."""
        metrics = {
            name: {part: value if math.isfinite(value) else None for part, value in zip(_PARTS, values, strict=True)}
            for name, values in self.metrics.items()
        }
        return {
            "images": self.count,
            "missing": self.missing,
            "failed": self.failed,
            "reason": self.reason or None,
            **metrics,
        }


_PARTS = ("value", "low", "high")


def _pearson(x: F64, y: F64) -> F64:
    """Pearson's linear correlation along the last axis; NaN where either is constant."""
    constant = (np.ptp(x, axis=-1) == 0) | (np.ptp(y, axis=-1) == 0)
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    norm = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    undefined = np.full(norm.shape, np.nan)
    return np.asarray(np.divide((x * y).sum(-1), norm, out=undefined, where=~constant & (norm > 0)))


def plcc(x: F64, y: F64) -> float:
    """Pearson's linear correlation of two [N] arrays; NaN where either is constant."""
    return float(_pearson(x, y))


def srocc(x: F64, y: F64) -> float:
    """Spearman's rank correlation, ties by mean rank; NaN where either is constant."""
    from scipy.stats import rankdata

    return plcc(rankdata(x), rankdata(y))


def krocc(x: F64, y: F64) -> float:
    """Kendall's tau-b; NaN where either is constant."""
    from scipy.stats import kendalltau

    return float(kendalltau(x, y, method="asymptotic").statistic)  # of its p-value, which nobody asks for


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


def _metrics(x: F64, y: F64, axis: int = -1) -> F64:
    """METRICS of scores and MOS, both [N] or [draws, N], along the last axis, as scipy's bootstrap asks for them."""
    from scipy.stats import rankdata

    pairs = list(zip(np.atleast_2d(x), np.atleast_2d(y), strict=True))
    fitted = np.reshape([logistic(a, *fit_logistic(a, b)) for a, b in pairs], x.shape)
    kendall = np.reshape([krocc(a, b) for a, b in pairs], x.shape[:-1])
    spearman = _pearson(rankdata(x, axis=-1), rankdata(y, axis=-1))
    rmse = np.sqrt(((fitted - y) ** 2).mean(-1))
    return np.stack([spearman, _pearson(x, y), _pearson(fitted, y), kendall, rmse])


def measure(x: F64, y: F64) -> dict[str, float]:
    """All metrics of scores x [N] against MOS y [N]; RMSE in MOS units after the logistic."""
    return dict(zip(METRICS, _metrics(x, y).tolist(), strict=True))


def bootstrap(x: F64, y: F64, draws: int = DRAWS, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of every metric: images redrawn with replacement, everything refitted.

    Not BCa, whose acceleration takes another fit for each image. Draws that have no value for a metric, because all of
    their labels or scores are the same, are left out of its interval; it is NaN without any.
    """
    from scipy.stats import bootstrap as resample

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The BCa confidence interval cannot")  # says scipy of any interval with NaN
        drawn = resample(
            (x, y),
            _metrics,
            paired=True,
            vectorized=True,
            n_resamples=draws,
            batch=max(1, _DRAWN // len(x)),
            method="percentile",
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution
    tails = [50 * (1 - LEVEL), 50 * (1 + LEVEL)]
    intervals = {}
    for name, values in zip(METRICS, drawn, strict=True):
        known = values[np.isfinite(values)]
        low, high = np.percentile(known, tails).tolist() if known.size else (math.nan, math.nan)
        intervals[name] = (low, high)
    return intervals


def evaluate(
    scores: ScoreTable | str | os.PathLike[str],
    labels: Mapping[str, float] | str | os.PathLike[str],
    draws: int = DRAWS,
) -> Evaluation:
    """Compare the scored images that have a label with their labels.

    Args:
        scores: a table or a score file; rows without a label play no part.
        labels: MOS by image name, or a csv file, see `read_labels`. A name matches a row's whole path, else its last
            component, else that without regard to case.
        draws: bootstrap draws for the intervals.

    Raises:
        UsageError: fewer than 5 labelled images were scored, a name fits several rows, or labels are refused.
        MetaqapError: the score file is damaged.
    """
    if draws < 1:
        raise UsageError(f"{draws} draws: at least 1 is needed")
    for what, given, known in (("scores", scores, ScoreTable), ("labels", labels, Mapping)):
        if not isinstance(given, (str, os.PathLike, known)):
            raise UsageError(f"{what} is {kind(given)}, not a {known.__name__} or the name of a file")
    wanted: dict[str, float] = {}
    for name, mos in (labels if isinstance(labels, Mapping) else read_labels(labels)).items():
        add_label(wanted, "labels", name, mos)
    rows = dict(zip(wanted, found_in(wanted, _results(scores)), strict=True))
    missing = [name for name, score in rows.items() if score is None]
    failed = [name for name, score in rows.items() if score is not None and math.isnan(score)]
    found = {name: score for name, score in rows.items() if score is not None and not math.isnan(score)}
    if len(found) < LEAST:
        have = "has" if len(missing) == 1 else "have"
        no_row = f"{len(missing)} {have} no row{', for example ' + missing[0] if missing else ''}"
        raise UsageError(
            f"only {len(found)} of {len(wanted)} labelled images have a score, and at least {LEAST} are needed: "
            f"{no_row}; {len(failed)} failed"
        )
    x = np.array(list(found.values()), np.float64)
    y = np.array([wanted[name] for name in found], np.float64)
    values, intervals = measure(x, y), bootstrap(x, y, draws)
    return Evaluation(len(x), {n: (values[n], *intervals[n]) for n in METRICS}, missing, failed, _undefined(x, y))


def _undefined(x: F64, y: F64) -> str:
    """Why correlations of x and y are not defined; empty where they are."""
    for what, values in (("labels", y), ("scores", x)):
        if np.ptp(values) == 0:
            return f"all {len(values)} {what} are {values[0]:g}: a correlation is not defined"
    return ""


# How a label's name may be a row's path, from strict to loose.
_RULES: tuple[Callable[[str], str], ...] = (
    os.path.normpath,
    os.path.basename,
    lambda name: os.path.basename(name).lower(),  # BIQ2021 lists a .jpg that is a .JPG on disk
)


def match(names: Iterable[str], paths: Iterable[str]) -> list[int | None]:
    """The number of the row that each label's name stands for, see `found_in`."""
    return found_in(names, ((path, row) for row, path in enumerate(paths)))


def found_in(names: Iterable[str], rows: Iterable[tuple[str, T]]) -> list[T | None]:
    """What stands beside the path that each label's name stands for; None without one.

    By the first rule that finds any row. `rows` is read once, and only `names` are held in memory.

    Raises:
        UsageError: a name fits several rows.
    """
    names = list(names)
    found: list[dict[str, list[tuple[str, T]]]] = [{rule(name): [] for name in names} for rule in _RULES]
    for row in rows:
        for rule, hits_of in zip(_RULES, found, strict=True):
            hits = hits_of.get(rule(row[0]))
            if hits is not None and len(hits) < 3:  # more are not shown
                hits.append(row)
    matched: list[T | None] = []
    for name in names:
        hits = next((hits for rule, hits_of in zip(_RULES, found, strict=True) if (hits := hits_of[rule(name)])), [])
        if len(hits) > 1:
            raise UsageError(f"the label {name!r} fits several rows: {', '.join(path for path, _ in hits)}")
        matched.append(hits[0][1] if hits else None)
    return matched


def _results(scores: ScoreTable | str | os.PathLike[str]) -> Iterator[tuple[str, float]]:
    """Each row's path, and its score or NaN if it failed; of a file in bounded memory."""
    for table in in_pieces(scores):
        yield from zip(table.paths, np.where(table.ok, table.score, np.nan).tolist(), strict=True)


_NAMES = ("image name", "image_name", "image", "name", "path", "file", "filename", "file_name", "dist_img")
_MOS = ("mos", "dmos", "score", "label", "mean_opinion_score")


def read_labels(path: str | os.PathLike[str]) -> dict[str, float]:
    """Labels from a csv with a header: a name column and a MOS column (see `_NAMES`, `_MOS`).

    Raises:
        UsageError: no such file, no such columns, a duplicate name, a MOS that is no finite number; the
            message names the line.
    """
    path = Path(path)
    labels: dict[str, float] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            header = [cell.strip().lower() for cell in next(rows, [])]
            name_at = next((header.index(name) for name in _NAMES if name in header), None)
            mos_at = next((header.index(name) for name in _MOS if name in header), None)
            if name_at is None or mos_at is None:
                raise UsageError(
                    f"{path}: the first line must name the columns, one of {', '.join(_NAMES)} "
                    f"and one of {', '.join(_MOS)}; it has {', '.join(header) or 'nothing'}"
                )
            for row in rows:
                if not any(cell.strip() for cell in row):
                    continue
                if max(name_at, mos_at) >= len(row):
                    raise UsageError(f"{path} line {rows.line_num}: no name and number in {','.join(row)!r}")
                add_label(labels, f"{path} line {rows.line_num}", row[name_at], row[mos_at])
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} is not a csv file: {error}") from None
    return labels


def add_label(labels: dict[str, float], where: str, name: str, mos: str | float) -> None:
    """Add one row of a label table, checked; `where` says which row it is.

    Raises:
        UsageError: no name, a MOS that is no finite number, a name that is there already.
    """
    if not isinstance(name, str):
        raise UsageError(f"{where}: the name {name!r} is not text")
    name = name.strip()
    try:
        value = float(mos)
    except (TypeError, ValueError):
        raise UsageError(f"{where}: the MOS of {name!r} is {mos!r}, not a number") from None
    if not name or not math.isfinite(value):
        raise UsageError(f"{where}: {'no name' if not name else f'the MOS of {name!r} is {value}'}")
    if name in labels:
        raise UsageError(f"{where}: {name!r} has two labels")
    labels[name] = value
