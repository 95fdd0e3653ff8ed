"""Sorted score files into one sorted sequence of rows, whatever their number, in bounded memory."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from metaqap_fast.errors import UsageError
from metaqap_fast.records import key_order
from metaqap_fast.scores.hdf5 import CHUNK, open_scores, read_rows, unknown_columns
from metaqap_fast.scores.table import ScoreTable

ROWS = CHUNK  # read and written at once


def chunks(path: str | os.PathLike[str]) -> Iterator[ScoreTable]:
    """The rows of a score file, ROWS at a time; the file is open only while it is read from."""
    start = 0
    while True:
        with open_scores(path) as file:
            table = read_rows(file, slice(start, start + ROWS))
        if len(table):
            yield table
        if len(table) < ROWS:
            return
        start += ROWS


def check_columns(paths: Iterable[Path]) -> None:
    """Whether all that stands in score files is kept when their rows are written again.

    Raises:
        UsageError: one has columns that this version does not know.
    """
    for path in paths:
        with open_scores(path) as file:
            if unknown := unknown_columns(file):
                raise UsageError(
                    f"{path} has columns that this version does not know and would lose ({', '.join(unknown)}): "
                    "use the version that wrote it"
                )


def merged(
    paths: Sequence[Path],
    keep: Callable[[bytes], bool] | None = None,
    prefixes: Mapping[Path, bytes] | None = None,
) -> Iterator[ScoreTable]:
    """All rows of score files, each of them sorted, in the order of their keys.

    Of a key that stands in several files the last file's row is taken. A file is read when the rows that come
    before its first are done, so files that don't overlap are in memory one after the other.

    Args:
        paths: the files.
        keep: whether the row of a key is wanted; all of them by default.
        prefixes: of files, what is to stand before their keys that are no whole addresses.

    Raises:
        UsageError: see `check_columns`.
    """
    check_columns(paths)
    taken: list[ScoreTable] = []
    for table in _in_order(paths, prefixes or {}):
        if keep is not None:
            table = table[np.fromiter(map(keep, table.keys), bool, len(table))]
        if len(table):
            taken.append(table)
        if sum(map(len, taken)) >= ROWS:
            yield from _pieces(ScoreTable.concatenate(taken))
            taken = []
    if taken:
        yield from _pieces(ScoreTable.concatenate(taken))


def _pieces(table: ScoreTable) -> Iterator[ScoreTable]:
    for start in range(0, len(table), ROWS):
        yield table[start : start + ROWS]


class Reader:
    """A file that is being read: the rows in memory, and how far they have been used."""

    def __init__(self, number: int, tables: Iterator[ScoreTable]) -> None:
        self.number, self.at = number, 0
        self._rest = tables
        self.table: ScoreTable | None = None
        self.order: list[bytes] = []
        self.fill()

    def fill(self) -> bool:
        """Have rows in memory that have not been used; False without any left."""
        if self.at == len(self.order):
            self.table, self.at = next(self._rest, None), 0
            self.order = [key_order(key) for key in self.table.keys] if self.table else []
        return bool(self.order)

    def take(self, last: bytes) -> tuple[ScoreTable, list[bytes]]:
        """The rows up to this place in the order."""
        assert self.table is not None
        start, self.at = self.at, bisect_right(self.order, last, self.at)
        return self.table[start : self.at], self.order[start : self.at]


def _in_order(paths: Sequence[Path], prefixes: Mapping[Path, bytes]) -> Iterator[ScoreTable]:
    """The rows in tables of any size, each key once."""
    waiting = []
    for number, path in enumerate(paths):
        with open_scores(path) as file:
            first = _prefixed(read_rows(file, slice(1)), prefixes.get(path, b""))
        waiting += [(key_order(key), number) for key in first.keys]
    waiting.sort(reverse=True)
    active: list[Reader] = []
    while waiting or active:
        # Up to `last` everything is in memory once the files that begin before it are open.
        last = min((reader.order[-1] for reader in active), default=waiting[-1][0] if waiting else b"")
        while waiting and waiting[-1][0] <= last:
            number = waiting.pop()[1]
            prefix = prefixes.get(paths[number], b"")
            active.append(Reader(number, (_prefixed(table, prefix) for table in chunks(paths[number]))))
            last = min(reader.order[-1] for reader in active)
        active.sort(key=lambda reader: -reader.number)  # the newest first
        yield _one_each([reader.take(last) for reader in active if reader.order[reader.at] <= last])
        active = [reader for reader in active if reader.fill()]


def _one_each(found: list[tuple[ScoreTable, list[bytes]]]) -> ScoreTable:
    """Sorted tables as one, of equal keys the first table's row."""
    if len(found) == 1:
        return found[0][0]
    order = [place for _, places in found for place in places]
    rows = sorted(range(len(order)), key=order.__getitem__)
    first = [row for before, row in zip([-1, *rows], rows, strict=False) if before < 0 or order[row] != order[before]]
    return ScoreTable.concatenate([table for table, _ in found])[first]


def _prefixed(table: ScoreTable, prefix: bytes) -> ScoreTable:
    """The rows under their keys behind a folder; whole addresses stay."""
    if not prefix:
        return table
    keys = [key if key.startswith(b"/") or b"://" in key else prefix + b"/" + key for key in table.keys]
    return ScoreTable({**table.columns, "key": keys}, table.attributes)
