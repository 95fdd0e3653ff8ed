"""What can be said of any number of rows in a few kilobytes: how many of each status and reason, percentiles, the worst
and best scores, the first failures."""

from __future__ import annotations

import bisect
import heapq
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.errors import Status
from metaqap_fast.records import Past, Row, key_order
from metaqap_fast.scores.schema import escaped
from metaqap_fast.scores.table import ScoreTable

EXTREMES = 5
FAILURES = 10
BINS = 10_000  # of scores from 0 to 1: what percentiles are exact to
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


class Extreme(NamedTuple):
    """One of the worst or best images; as it is kept, of the worst the score is negative."""

    score: float
    path: str
    reason: str


Failure = tuple[bytes, bytes, int, str]  # place in the order, key, status, reason


@dataclass(slots=True)
class Totals:
    """Of the rows that were taken.

    Attributes:
        statuses: rows by the name of their status.
        reasons: scored rows by the reason that they were given; those without one are not counted.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    _bins: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS + 1, np.int64))
    _worst: list[Extreme] = field(default_factory=list)  # a heap, as is the next
    _best: list[Extreme] = field(default_factory=list)
    _failures: list[Failure] = field(default_factory=list)  # sorted

    @property
    def rows(self) -> int:
        """All of them."""
        return sum(self.statuses.values())

    @property
    def scored(self) -> int:
        """Those with a score."""
        return self.statuses[Status.ok.name]

    @property
    def failed(self) -> int:
        """Those without."""
        return self.rows - self.scored

    @property
    def failures(self) -> dict[str, int]:
        """Those without, by status."""
        return {name: count for name, count in sorted(self.statuses.items()) if count and name != Status.ok.name}

    @property
    def by_reason(self) -> dict[str, int]:
        """`reasons`, the most frequent first, equal ones by name."""
        given = [one for one in self.reasons.items() if one[1]]  # 0: the last such row was scored again
        return dict(sorted(given, key=lambda one: (-one[1], one[0])))

    @property
    def worst(self) -> list[Extreme]:
        """The worst images, the worst first; no image is among the best too."""
        first = sorted(self._worst, reverse=True)[: max(1, self.scored // 2)]
        return [one._replace(score=-one.score) for one in first]

    @property
    def best(self) -> list[Extreme]:
        """The best images, the best first."""
        return sorted(self._best, reverse=True)[: self.scored // 2]

    @property
    def first_failures(self) -> list[dict[str, str]]:
        """The failed images that come first in the order of the keys, with their reasons."""
        return [
            {"path": escaped(key), "status": Status(status).name, "error": reason}
            for _, key, status, reason in self._failures
        ]

    def percentiles(self) -> dict[str, float | None]:
        """Of the scores, to within .0001; None without any."""
        total, below = int(self._bins.sum()), np.cumsum(self._bins)
        if not total:
            return dict.fromkeys(map(str, PERCENTILES))
        places = np.array(PERCENTILES) / 100 * (total - 1)
        low, high = (below.searchsorted(ends(places), side="right") / BINS for ends in (np.floor, np.ceil))
        values = low + (high - low) * (places % 1)
        return {str(percent): round(value, 4) for percent, value in zip(PERCENTILES, values.tolist(), strict=True)}

    def take(self, row: Row) -> None:
        """Count a row."""
        self.statuses[row.status.name] += 1
        if row.status == Status.ok:
            self._bins[_bin(row.score)] += 1
            if row.reason:
                self.reasons[row.reason] += 1
            self._extreme(float(row.score), row.key, row.reason)
        else:
            self._failure(row.key, row.status, row.error)

    def take_table(self, table: ScoreTable) -> None:
        """Count the rows of a table."""
        for status, count in zip(*np.unique(table.status, return_counts=True), strict=True):
            self.statuses[Status(status).name] += int(count)
        ok, scores = table.ok, table.score
        self.reasons.update(filter(None, table.reason))  # a failed row has none
        self._bins += np.bincount(np.rint(np.clip(scores[ok], 0, 1) * np.float64(BINS)).astype(int), minlength=BINS + 1)
        most = np.flatnonzero(ok)
        if len(most) > 2 * EXTREMES:  # the others are neither
            order = most[np.argpartition(scores[most], (EXTREMES - 1, len(most) - EXTREMES))]
            most = np.concatenate([order[:EXTREMES], order[-EXTREMES:]])
        for i in most.tolist():
            self._extreme(float(scores[i]), table.keys[i], table.reason[i])
        for i in np.flatnonzero(~ok)[:FAILURES].tolist():  # a table is sorted, as its file is
            self._failure(table.keys[i], table.status[i], table.error[i])

    def passing(self, tables: Iterable[ScoreTable]) -> Iterator[ScoreTable]:
        """The tables, which are counted as they pass; they come in the order of their keys."""
        for table in tables:
            self.take_table(table)
            yield table

    def forget(self, past: Past) -> None:
        """Count a row no more; among the extremes and first failures nothing takes its place."""
        self.statuses[Status(past.status).name] -= 1
        key = os.fsencode(past.key)
        if past.status == Status.ok:
            self._bins[_bin(past.score)] -= 1
            if past.reason:
                self.reasons[past.reason] -= 1
            for name in ("_worst", "_best"):
                heap = [item for item in getattr(self, name) if item.path != _path(key)]
                heapq.heapify(heap)
                setattr(self, name, heap)
        else:
            self._failures = [failure for failure in self._failures if failure[1] != key]

    def told(self) -> dict[str, Any]:
        """What another process is told, see `plus`; plain values that JSON can hold."""
        used = np.flatnonzero(self._bins)
        return {
            "statuses": dict(self.statuses),
            "reasons": dict(self.reasons),
            "bins": [used.tolist(), self._bins[used].tolist()],
            "worst": self._worst,
            "best": self._best,
            "failures": [[os.fsdecode(key), status, reason] for _, key, status, reason in self._failures],
        }

    def plus(self, others: Iterable[Mapping[str, Any]]) -> Totals:
        """The sum of these and of what other processes have told."""
        counts = Counter(self.statuses), Counter(self.reasons)
        found = Totals(*counts, self._bins.copy(), [*self._worst], [*self._best], [*self._failures])
        for other in others:
            found.statuses.update(other["statuses"])
            found.reasons.update(other["reasons"])
            found._bins[other["bins"][0]] += np.array(other["bins"][1], np.int64)
            for heap, items in ((found._worst, other["worst"]), (found._best, other["best"])):
                for item in items:
                    _keep(heap, Extreme(*item))
            for key, status, reason in other["failures"]:
                found._failure(os.fsencode(key), status, reason)
        return found

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        extremes = {"worst": self.worst, "best": self.best}
        return {
            "rows": self.rows,
            "scored": self.scored,
            "failed": self.failures,
            "reasons": self.by_reason,
            "percentiles": self.percentiles(),
            "first_failures": self.first_failures,
            **{
                name: [one._asdict() | {"score": round(one.score, 4)} for one in found]
                for name, found in extremes.items()
            },
        }

    def _extreme(self, score: float, key: bytes, reason: str) -> None:
        for heap, value in ((self._worst, -score), (self._best, score)):
            if len(heap) < EXTREMES or value >= heap[0].score:  # the others, which are most, change nothing
                _keep(heap, Extreme(value, _path(key), reason))

    def _failure(self, key: bytes, status: int, reason: str) -> None:
        if len(self._failures) == FAILURES and key_order(key) >= self._failures[-1][0]:
            return
        bisect.insort(self._failures, (key_order(key), key, int(status), reason))
        del self._failures[FAILURES:]


def _keep(heap: list[Extreme], item: Extreme) -> None:
    (heapq.heappush if len(heap) < EXTREMES else heapq.heappushpop)(heap, item)


def _bin(score: float) -> int:
    return round(min(max(float(score), 0.0), 1.0) * BINS)


def _path(key: bytes) -> str:
    return key.decode(errors="backslashreplace")
