"""What changed between two score files: of two runs, two models, two versions."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.errors import Status
from metaqap_fast.scores.committed import check_finished
from metaqap_fast.scores.hdf5 import open_scores, read_attributes
from metaqap_fast.scores.identity import IDENTITY, IF_RECORDED, VERSION
from metaqap_fast.scores.merge import Reader, chunks
from metaqap_fast.scores.probe import try_out
from metaqap_fast.scores.schema import escaped
from metaqap_fast.scores.table import ScoreTable
from metaqap_fast.streams import counted

MOST = 10  # moves, failures and other rows that are named
TITLES = {"failed": "new failures", "mended": "scored now", "gone": "only in the first", "new": "only in the second"}
ABOUT = ("bundle", *IDENTITY, *IF_RECORDED, VERSION, "root")


@dataclass(slots=True)
class Comparison:
    """Of the rows of two files with the same key. Memory: 12 bytes for each that has a score in both.

    Attributes:
        both, gone, new: rows in both files, only in the first, only in the second.
        failed, mended: rows with a score in the first alone, in the second alone.
        first: of each of these but `both`, the paths of the first rows; of `failed` with the error.
        moves: the largest differences of scores: size, path, score in the first and in the second file.
        scores: [N] those of the first and of the second file, where both have one.
        beyond: how many of these differ by more than the first one's uncertainty.
        differing: root attributes that differ, with both values.
    """

    both: int = 0
    gone: int = 0
    new: int = 0
    failed: int = 0
    mended: int = 0
    beyond: int = 0
    first: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in TITLES})
    moves: list[tuple[float, str, float, float]] = field(default_factory=list)
    differing: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    _scores: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=list)

    @property
    def scores(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See above."""
        if not self._scores:
            return np.empty(0, np.float32), np.empty(0, np.float32)
        one, two = map(np.concatenate, zip(*self._scores, strict=True))
        self._scores = [(one, two)]
        return one, two

    def statistics(self) -> dict[str, float | None]:
        """SROCC and PLCC of the scores, None where they are undefined, and how far they are apart."""
        from scipy.stats import pearsonr, spearmanr

        one, two = self.scores
        if not len(one):
            return {}
        apart = np.abs(two.astype(np.float64) - one)
        varied = len(one) > 2 and np.ptp(one) > 0 and np.ptp(two) > 0
        return {
            "srocc": float(spearmanr(one, two).statistic) if varied else None,
            "plcc": float(pearsonr(one.astype(np.float64), two).statistic) if varied else None,
            "mean_difference": float(two.mean(dtype=np.float64) - one.mean(dtype=np.float64)),
            "median_apart": float(np.median(apart)),
            "p99_apart": float(np.percentile(apart, 99)),
            "most_apart": float(apart.max()),
            "equal": int((apart == 0).sum()),
            "beyond_uncertainty": self.beyond,
        }

    def take(self, one: ScoreTable, two: ScoreTable) -> None:
        """Count rows with the same keys."""
        self.both += len(one)
        ok, ok_too = one.ok, two.ok
        self.failed += int((ok & ~ok_too).sum())
        self.mended += int((~ok & ok_too).sum())
        for i in np.flatnonzero(ok & ~ok_too)[: MOST - len(self.first["failed"])].tolist():
            what = f"{Status(two.status[i]).name}, {escaped(two.error[i])}"
            self.first["failed"].append(f"{escaped(two.keys[i])}: {what}")
        self._name("mended", one, np.flatnonzero(~ok & ok_too))
        rows = np.flatnonzero(ok & ok_too)
        apart = np.abs(two.score[rows] - one.score[rows])
        self.beyond += int((apart > one.uncertainty[rows]).sum())
        self._scores.append((one.score[rows], two.score[rows]))
        for at in np.argsort(-apart, kind="stable")[:MOST].tolist():
            i = int(rows[at])
            move = (float(apart[at]), escaped(one.keys[i]), float(one.score[i]), float(two.score[i]))
            if move[0] > 0:
                (heapq.heappush if len(self.moves) < MOST else heapq.heappushpop)(self.moves, move)

    def alone(self, what: str, table: ScoreTable) -> None:
        """Count rows that only one file has: `gone` or `new`."""
        setattr(self, what, getattr(self, what) + len(table))
        self._name(what, table, range(len(table)))

    def _name(self, what: str, table: ScoreTable, rows: Iterable[int]) -> None:
        named = self.first[what]
        named.extend(escaped(table.keys[i]) for i in list(rows)[: MOST - len(named)])

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        counts = {name: getattr(self, name) for name in ("both", "gone", "new", "failed", "mended")}
        names = ("apart", "path", "before", "after")
        moves = [dict(zip(names, move, strict=True)) for move in sorted(self.moves, reverse=True)]
        return {**counts, **self.statistics(), "moves": moves, "first": self.first, "differing": self.differing}


def compare(one: str | os.PathLike[str], two: str | os.PathLike[str]) -> Comparison:
    """Two score files, read side by side.

    Raises:
        UsageError: no such file.
        MetaqapError: it is damaged.
    """
    attributes = []
    for path in (one, two):
        check_finished(path)
        try_out(path)
        with open_scores(path) as file:
            attributes.append(read_attributes(file))
    found = Comparison()
    before, after = attributes
    changed = [name for name in ABOUT if before.get(name) != after.get(name)]
    found.differing = {name: (before.get(name), after.get(name)) for name in changed}
    for old, new in side_by_side(chunks(one), chunks(two)):
        found.take(*_matched(old, new, found))
    return found


def side_by_side(one: Iterator[ScoreTable], two: Iterator[ScoreTable]) -> Iterator[tuple[Rows, Rows]]:
    """Sorted rows of two files, up to the same place in the order at a time, each with their places in it."""
    readers = [Reader(0, one), Reader(1, two)]
    empty = next((reader.table[:0] for reader in readers if reader.table is not None), None)
    while empty is not None and (active := [reader for reader in readers if reader.fill()]):
        last = min(reader.order[-1] for reader in active)
        first, second = (reader.take(last) if reader in active else (empty, []) for reader in readers)
        yield first, second


Rows = tuple[ScoreTable, Sequence[bytes]]


def _matched(one: Rows, two: Rows, found: Comparison) -> tuple[ScoreTable, ScoreTable]:
    """The rows that both have; those that one of them has are counted."""
    places = {place: i for i, place in enumerate(two[1])}
    pairs = [(i, places.pop(place)) for i, place in enumerate(one[1]) if place in places]
    left, right = np.array(pairs, np.int64).reshape(-1, 2).T
    found.alone("gone", one[0][np.setdiff1d(np.arange(len(one[0])), left)])
    found.alone("new", two[0][np.array(sorted(places.values()), np.int64)])
    return one[0][left], two[0][right]


def describe(found: Comparison) -> Iterator[str]:
    """The same in lines."""
    yield f"{counted(found.both, 'image')} in both, {found.gone:,} only in the first, {found.new:,} only in the second"
    for name, (before, after) in found.differing.items():
        yield f"  {name}: {before or 'none'} -> {after or 'none'}"
    if not found.both and (found.gone or found.new):
        yield "  no image has the same path in both: were they scored from different folders?"
    about = found.statistics()
    if about:
        count = len(found.scores[0])
        srocc, plcc = ("undefined" if about[n] is None else f"{about[n]:.4f}" for n in ("srocc", "plcc"))
        yield f"SROCC {srocc}, PLCC {plcc} over {counted(count, 'image')} with a score in both"
        yield (
            f"  difference: median {about['median_apart']:.4f}, 99 % {about['p99_apart']:.4f}, "
            f"largest {about['most_apart']:.4f}; mean {about['mean_difference']:+.4f}"
        )
        yield f"  {about['equal']:,} equal, {found.beyond:,} apart by more than their uncertainty"
    for _, path, before, after in sorted(found.moves, reverse=True):
        yield f"  {after - before:+.4f}  {before:.4f} -> {after:.4f}  {path}"
    for name, title in TITLES.items():
        count = getattr(found, name)
        if count:
            yield f"{title}: {count:,}"
            yield from (f"  {line}" for line in found.first[name])
            if count > len(found.first[name]):
                yield "  ..."
