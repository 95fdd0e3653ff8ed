"""Medians with intervals: what is made of raw samples, as pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
DRAWS = 2000
LEVEL = 95.0


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


def medians(samples: Sequence[float], seed: int = 0) -> F64:
    """DRAWS bootstrap medians of samples."""
    values = np.asarray(samples, np.float64)
    index = np.random.default_rng(seed).integers(0, len(values), (DRAWS, len(values)))
    return np.asarray(np.median(values[index], axis=1))


def interval(samples: Sequence[float]) -> Interval:
    """Median of one or more samples with its percentile bootstrap interval.

    Raises:
        ValueError: no samples.
    """
    if not len(samples):
        raise ValueError("no samples")
    return _interval(float(np.median(samples)), medians(samples), len(samples))


def ratio(above: Sequence[float], below: Sequence[float]) -> Interval:
    """Median of one set of samples over the median of another, both redrawn independently.

    Raises:
        ValueError: no samples.
    """
    if not (len(above) and len(below)):
        raise ValueError("no samples")
    value = float(np.median(above) / np.median(below))
    return _interval(value, medians(above, 1) / medians(below, 2), min(len(above), len(below)))


def exponent(sizes: Sequence[float], times: Sequence[float]) -> Interval:
    """Power k of times ~ sizes**k: the slope of a line through the logarithms, points redrawn for the interval.

    Raises:
        ValueError: fewer than two different sizes.
    """
    x, y = np.log(np.asarray(sizes, np.float64)), np.log(np.asarray(times, np.float64))
    if len(np.unique(x)) < 2:
        raise ValueError("an exponent needs two different sizes")
    index = np.random.default_rng(0).integers(0, len(x), (DRAWS, len(x)))
    index = index[(x[index] != x[index][:, :1]).any(1)]  # a draw of one size alone has no slope
    return _interval(float(_slope(x, y)), _slope(x[index], y[index]), len(x))


def _slope(x: F64, y: F64) -> F64:
    dx = x - x.mean(-1, keepdims=True)
    return np.asarray((dx * y).sum(-1) / (dx * dx).sum(-1))


def _interval(value: float, draws: F64, count: int) -> Interval:
    low, high = np.percentile(draws, [50 - LEVEL / 2, 50 + LEVEL / 2])
    return Interval(value, float(low), float(high), count)
