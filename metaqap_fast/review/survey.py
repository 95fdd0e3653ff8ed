"""What a score file holds, counted in one pass: how scores are spread, and over folders, sizes, dates and cameras."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.errors import Status
from metaqap_fast.scores.schema import escaped
from metaqap_fast.scores.table import ScoreTable

BINS = 200  # of scores from 0 to 1, in breakdowns
LABELS = 2000  # of one breakdown that are counted; the rest are one
OTHERS = "(others)"
KINDS, EXAMPLES = 200, 3  # of failures
SIZES = (0.1, 0.5, 1, 2, 4, 8, 16, 32, 64)  # megapixels
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Line:
    """Images with one label: how many, how many of them failed, and three percentiles of their scores, NaN if none."""

    label: str
    count: int
    failed: int
    low: float  # 5 %
    middle: float  # 50 %
    high: float  # 95 %


class Breakdown:
    """Scores by a label."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._bins = np.zeros((16, BINS + 1), np.int64)  # [labels, BINS], failures in the last

    def __len__(self) -> int:
        return len(self._places)

    def take(self, labels: Sequence[str], table: ScoreTable) -> None:
        """Count the rows of a table, each under its label; rows with an empty one are not counted."""
        places = np.fromiter(map(self._place, labels), np.int64, len(table))
        while len(self._places) >= len(self._bins):
            self._bins = np.concatenate([self._bins, np.zeros_like(self._bins)])
        score = np.where(table.ok, table.score, 0)
        bins = np.where(table.ok, np.clip(score * BINS, 0, BINS - 1).astype(int), BINS)
        there = places >= 0
        np.add.at(self._bins, (places[there], bins[there]), 1)

    def _place(self, label: str) -> int:
        if not label:
            return -1
        if label not in self._places and len(self._places) >= LABELS:
            label = OTHERS
        return self._places.setdefault(label, len(self._places))

    def lines(self, most: int = 0) -> list[Line]:
        """In the order of the labels; `most` of them, those with the most images."""
        lines = [self._line(label, self._bins[place]) for label, place in self._places.items()]
        if most:
            lines = sorted(lines, key=lambda line: -line.count)[:most]
        return sorted(lines, key=lambda line: (line.label == OTHERS, line.label))

    @staticmethod
    def _line(label: str, bins: NDArray[np.int64]) -> Line:
        scored = int(bins[:BINS].sum())
        below = np.cumsum(bins[:BINS])
        places = [(below.searchsorted(part * scored) + 0.5) / BINS if scored else np.nan for part in (0.05, 0.5, 0.95)]
        return Line(label, int(bins.sum()), int(bins[BINS]), *map(float, places))


@dataclass(slots=True)
class Survey:
    """Of the rows that were taken, in the order of the file. Memory: 9 bytes for each, and what is counted.

    Attributes:
        score, uncertainty, status: [N], NaN where failed.
        failures: how many by what went wrong, with numbers left out, and the first paths of each.
        reasons: images by the first thing that is wrong with them; empty if the file does not say.
        folders, deeper: by the first folder of the key, and by the first two.
        sizes, months, cameras: by these, as far as they are known.
    """

    score: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    uncertainty: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    status: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], list[tuple[str, str]]] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    folders: Breakdown = field(default_factory=Breakdown)
    deeper: Breakdown = field(default_factory=Breakdown)
    sizes: Breakdown = field(default_factory=Breakdown)
    months: Breakdown = field(default_factory=Breakdown)
    cameras: Breakdown = field(default_factory=Breakdown)

    @classmethod
    def of(cls, tables: Iterable[ScoreTable]) -> Survey:
        """The rows of a file."""
        survey = cls()
        parts: list[tuple[Any, ...]] = []
        for table in tables:
            parts.append((np.where(table.ok, table.score, np.nan), table.uncertainty, table.status))
            survey._take(table)
        if parts:
            survey.score, survey.uncertainty, survey.status = (
                np.concatenate(part) for part in zip(*parts, strict=True)
            )
        return survey

    @property
    def by_folder(self) -> Breakdown:
        """By folder: as deep as it takes to have several."""
        return self.folders if len(self.folders) > 1 else self.deeper

    def percentiles(self, parts: Sequence[float]) -> list[float]:
        """Of the scores; NaN without any."""
        scores = self.score[np.isfinite(self.score)]
        return np.percentile(scores, parts).tolist() if len(scores) else [float("nan")] * len(parts)

    def _take(self, table: ScoreTable) -> None:
        one, two = zip(*map(_folders, table.keys), strict=True) if len(table) else ((), ())
        self.folders.take(one, table)
        self.deeper.take(two, table)
        pixels = table.width.astype(np.float64) * table.height / 1e6
        names = [f"{low:g} to {high:g} MP" for low, high in zip((0, *SIZES), SIZES, strict=False)]
        labels = ["", *(f"{i}|{name}" for i, name in enumerate([*names, f"over {SIZES[-1]:g} MP"]))]
        self.sizes.take([labels[i] for i in np.where(pixels > 0, 1 + np.searchsorted(SIZES, pixels), 0)], table)
        if table.attributes.get("exif"):
            self.months.take([date[:7] for date in table.columns["date"]], table)
            self.cameras.take(list(table.columns["camera"]), table)
        self.reasons.update(filter(None, table.columns["reason"]))
        for i in np.flatnonzero(~table.ok).tolist():
            self._fail(table.status[i], table.error[i], table.keys[i])

    def _fail(self, status: int, error: str, key: bytes) -> None:
        kind = (Status(status).name, _NUMBER.sub("#", escaped(error))[:200])
        if kind not in self.failures and len(self.failures) >= KINDS:
            kind = (kind[0], OTHERS)
        self.failures[kind] += 1
        if len(shown := self.examples.setdefault(kind, [])) < EXAMPLES:
            shown.append((escaped(key), escaped(error)))


def _folders(key: bytes) -> tuple[str, str]:
    """The first folder of a key, and the first two; whole folders where keys are whole paths."""
    folder = os.path.dirname(key)
    if key.startswith(b"/") or b"://" in key:
        return (escaped(folder),) * 2
    parts = folder.split(b"/")
    return escaped(parts[0]) or ".", escaped(b"/".join(parts[:2])) or "."
