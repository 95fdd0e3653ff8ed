"""Sorted score files into one sorted sequence of rows, whatever their number, in bounded memory."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from metaqap_fast.errors import Status, UsageError
from metaqap_fast.records import key_order
from metaqap_fast.scores.hdf5 import open_scores, read_rows, unknown_columns
from metaqap_fast.scores.table import ScoreTable

ROWS = 1000  # read and written at once


class KeySet:
    """A set of keys that costs 16 bytes each: of a million, 16 MB. Equal 120-bit digests count as equal keys."""

    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        self._digests = np.unique(np.frombuffer(b"".join(map(_digest, keys)), "S16"))

    def __len__(self) -> int:
        return len(self._digests)

    def __contains__(self, key: bytes) -> bool:
        digest = _digest(key)
        at = int(self._digests.searchsorted(digest))
        return at < len(self._digests) and bool(self._digests[at] == digest)


def _digest(key: bytes) -> bytes:
    return blake2b(key, digest_size=15).digest() + b"."  # numpy takes zeros off the end of a string


def keys_in(paths: Iterable[Path], failed: bool = True) -> Iterator[bytes]:
    """The keys of score files; without those of failed images if `failed` is False."""
    for path in paths:
        for table in chunks(path):
            for key, status in zip(table.keys, table.status, strict=True):
                if failed or status == Status.ok:
                    yield key


def chunks(path: str | os.PathLike[str]) -> Iterator[ScoreTable]:
    """The rows of a score file, ROWS at a time; the file is open only while it is read from."""
    start = 0
    while True:
        with open_scores(path) as file:
            table = read_rows(file, slice(start, start + ROWS))
        if not len(table):
            return
        yield table
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


def merged(paths: Sequence[Path]) -> Iterator[ScoreTable]:
    """All rows of score files, each of them sorted, in the order of their keys.

    Of a key that stands in several files the last file's row is taken. A file is read when the rows that come
    before its first are done, so files that don't overlap are in memory one after the other.

    Raises:
        UsageError: see `check_columns`.
    """
    check_columns(paths)
    starts = []
    for p, path in enumerate(paths):
        with open_scores(path) as file:
            starts += [(key_order(key), p) for key in read_rows(file, slice(1)).keys]
    starts.sort(reverse=True)
    active: list[tuple[bytes, int, int, ScoreTable, Iterator[ScoreTable]]] = []

    def push(table: ScoreTable | None, i: int, p: int, rest: Iterator[ScoreTable]) -> None:
        if table is None or i == len(table):
            table, i = next(rest, None), 0
        if table is not None:
            heapq.heappush(active, (key_order(table.keys[i]), -p, i, table, rest))

    taken: list[ScoreTable] = []
    count, last = 0, None
    while starts or active:
        while starts and (not active or starts[-1][0] <= active[0][0]):
            _, p = starts.pop()
            push(None, 0, p, chunks(paths[p]))
        order, minus_p, i, table, rest = heapq.heappop(active)
        stop = i + 1
        others = [active[0][0]] if active else []
        others += [starts[-1][0]] if starts else []
        while stop < len(table) and all(key_order(table.keys[stop]) < other for other in others):
            stop += 1  # rows that stand before anything from another file are taken together
        if order == last:
            i += 1
        if i < stop:
            taken.append(table[i:stop])
            count += stop - i
            last = key_order(table.keys[stop - 1])
        push(table, stop, -minus_p, rest)
        if count >= ROWS:
            yield ScoreTable.concatenate(taken)
            taken, count = [], 0
    if taken:
        yield ScoreTable.concatenate(taken)
