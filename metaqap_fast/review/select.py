"""Which rows of a score file are chosen: the worst, the best, those below a score, those that failed, ..."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.errors import Status, UsageError
from metaqap_fast.options import Some
from metaqap_fast.review.groups import Alike, duplicates
from metaqap_fast.scores.table import ScoreTable

Tables = Callable[[], Iterable[ScoreTable]]  # all rows of a file, as often as asked for
FAILED = "failed"  # every status but ok


@dataclass(frozen=True, slots=True)
class Choice:
    """What is chosen: rows that meet all that is given here.

    Attributes:
        worst, best: so many of the rows that meet the rest; or percent of the scored images of the file, at least one.
        below, above: scores under, or over, this one.
        status: a status, or `failed` for each but ok; empty for images with a score.
        reason: the first thing that is wrong with the image, as the column `reason` has it.
        by_folder: worst and best are those of each folder.
        duplicates: images that look like a better one, as this says.
    """

    worst: Some | None = None
    best: Some | None = None
    below: float | None = None
    above: float | None = None
    status: str = ""
    reason: str = ""
    by_folder: bool = False
    duplicates: Alike | None = None

    @property
    def some(self) -> Some | None:
        """How many of the worst, or of the best."""
        return self.worst or self.best

    @property
    def for_worse(self) -> bool | None:
        """Whether bad images are asked for (True), or good ones (False); None where that is not said."""
        if self.worst or self.below is not None or self.reason or self.duplicates:
            return True
        return False if self.best or self.above is not None else None

    def check(self) -> None:
        """Whether anything is asked for, and can be.

        Raises:
            UsageError: it cannot; the message says why.
        """
        if self.worst and self.best:
            raise UsageError("--worst and --best cannot be given together")
        if self.by_folder and not self.some:
            raise UsageError("--by folder goes with --worst or --best")
        if self.duplicates and self.some:
            raise UsageError("--duplicates excludes --worst and --best")
        if self.status not in ("", FAILED, *Status.__members__):
            raise UsageError(f"no status {self.status!r}: one of {', '.join([*Status.__members__, FAILED])}")
        if self.status not in ("", "ok") and self.for_worse is not None:
            raise UsageError(f"images with status {self.status} have no score to choose by")
        if not self.status and self.for_worse is None:
            raise UsageError("say what to select, such as --worst 1%, --below 0.3 or --status failed")

    def wanted(self, table: ScoreTable) -> NDArray[np.bool_]:
        """[N] which rows meet everything but `worst` and `best`."""
        ok, score = table.ok, table.score
        found = ~ok if self.status == FAILED else table.status == Status[self.status or "ok"]
        if self.below is not None:
            found &= ok & (score < self.below)
        if self.above is not None:
            found &= ok & (score > self.above)
        if self.reason:
            found &= _has_reason(table, self.reason)
        return np.asarray(found)


def chosen(tables: Tables, choice: Choice) -> Iterator[ScoreTable]:
    """The rows of a choice: in the order of the file, or the worst or best first, folder by folder if so chosen.

    Memory: the chosen rows where there is an order, and some 20 bytes for each row of the file.
    """
    choice.check()
    if choice.some is None:
        for table in _only(tables, duplicates(tables(), choice.duplicates).rows) if choice.duplicates else tables():
            if (found := choice.wanted(table)).any():
                yield table[found]
        return
    order = _ranked(tables, choice, choice.some)
    if len(order):
        yield rows_at(tables, order)


def rows_at(tables: Tables, places: NDArray[np.int64]) -> ScoreTable:
    """The rows with these numbers, in this order; at least one."""
    sorted_places, found, start = np.sort(places), [], 0
    for table in tables():
        low, high = np.searchsorted(sorted_places, (start, start + len(table)))
        if high > low:
            found.append(table[sorted_places[low:high] - start])
        start += len(table)
    return ScoreTable.concatenate(found)[np.argsort(np.argsort(places, kind="stable"), kind="stable")]


def _only(tables: Tables, places: NDArray[np.int64]) -> Iterator[ScoreTable]:
    """The rows with these numbers, which are sorted."""
    start = 0
    for table in tables():
        low, high = np.searchsorted(places, (start, start + len(table)))
        yield table[places[low:high] - start]
        start += len(table)


def _ranked(tables: Tables, choice: Choice, some: Some) -> NDArray[np.int64]:
    """Numbers of the rows of the worst or best, in their order."""
    scores, wanted, folders = [], [], []
    names: dict[bytes, int] = {}
    for table in tables():
        scores.append(np.where(table.ok, table.score, np.nan))
        wanted.append(choice.wanted(table))
        if choice.by_folder:
            folders.append([names.setdefault(os.path.dirname(key), len(names)) for key in table.keys])
    if not scores:
        return np.empty(0, np.int64)
    score, mask = np.concatenate(scores), np.concatenate(wanted)
    folder = np.concatenate(folders).astype(np.int32) if folders else np.zeros(len(score), np.int32)
    rows = np.flatnonzero(np.isfinite(score))
    rows = rows[np.lexsort((score[rows] if choice.worst else -score[rows], folder[rows]))]
    if not some.is_percent:
        rows = rows[mask[rows]]  # of those that meet the rest
    counts = np.bincount(folder[rows], minlength=len(names) or 1)
    limits = np.array([math.ceil(some.of(int(n)) - 1e-9) if some.is_percent else some.number for n in counts])
    rank = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = rows[rank < limits[folder[rows]]]
    return rows[mask[rows]]


def _has_reason(table: ScoreTable, reason: str) -> NDArray[np.bool_]:
    """[N] which rows have this reason."""
    if not (known := table.attributes.get("reasons")):
        raise UsageError("the score file has no reasons: its images were scored by a model without them")
    if reason not in known:
        raise UsageError(f"no reason {reason!r}: one of {', '.join(known)}")
    return np.array([found == reason for found in table.columns["reason"]], bool)
