"""Medians with intervals: what is made of raw samples, as pure functions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
DRAWS = 2000
LEVEL = 95.0
MOST_VALUES = 10_000_000  # redrawn at a time: 80 MB


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and its 95 % bootstrap interval; `count` samples made it."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        known = self.count > 1  # of one sample there is no interval
        return f"{digits(self.value)} [{digits(self.low)}, {digits(self.high)}]" if known else digits(self.value)

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {"value": self.value, "low": self.low, "high": self.high, "count": self.count}


def digits(value: float) -> str:
    """Three significant digits, never an exponent for what a person would write out."""
    if not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    places = max(0, 2 - math.floor(math.log10(abs(value)) + 1e-12))
    return f"{value:,.{places}f}" if places <= 6 else f"{value:.2e}"


def interval(samples: Sequence[float]) -> Interval:
    """Median of one or more samples with its bootstrap interval.

    Raises:
        ValueError: no samples.
    """
    return _bootstrap(np.median, samples)


def mean(samples: Sequence[float] | F64) -> Interval:
    """Mean of one or more samples with its bootstrap interval.

    Raises:
        ValueError: no samples.
    """
    return _bootstrap(np.mean, samples)


def ratio(above: Sequence[float], below: Sequence[float]) -> Interval:
    """Median of one set of samples over the median of another, both redrawn independently.

    Raises:
        ValueError: no samples.
    """
    return _bootstrap(lambda a, b, axis: np.median(a, axis) / np.median(b, axis), above, below)


def exponent(sizes: Sequence[float], times: Sequence[float]) -> Interval:
    """Power k of times ~ sizes**k: the slope of a line through the logarithms, points redrawn for the interval.

    Raises:
        ValueError: fewer than two different sizes.
    """
    if len(set(sizes)) < 2:
        raise ValueError("an exponent needs two different sizes")
    from scipy.stats import DegenerateDataWarning

    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # a draw of one size alone has no slope and is left out
        return _bootstrap(_slope, np.log(sizes), np.log(times), paired=True)


def _slope(x: F64, y: F64, axis: int) -> F64:
    dx = x - x.mean(axis, keepdims=True)
    return np.asarray((dx * y).sum(axis) / (dx * dx).sum(axis))


def _bootstrap(statistic: Callable[..., Any], *samples: Sequence[float] | F64, paired: bool = False) -> Interval:
    """A statistic of samples with its percentile interval.

    Not BCa: of 400 medians of 5 normal samples its 95 % intervals held the truth 363 times, these 378 times.
    """
    from scipy.stats import bootstrap  # not above: it takes memory, and a process that imports this module is timed

    count = min(map(len, samples))
    if not count:
        raise ValueError("no samples")
    # scipy asks for two of each; one that stands twice is redrawn as itself.
    data = [np.repeat(each, 2) if len(each) == 1 else np.asarray(each, np.float64) for each in samples]
    batch = max(1, MOST_VALUES // sum(map(len, data)))
    drawn = bootstrap(
        data, statistic, n_resamples=DRAWS, batch=batch, paired=paired, vectorized=True, method="percentile", rng=0
    )
    low, high = np.nanpercentile(drawn.bootstrap_distribution, [50 - LEVEL / 2, 50 + LEVEL / 2])
    return Interval(float(statistic(*data, axis=-1)), float(low), float(high), count)
