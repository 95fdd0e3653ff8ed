"""The images of a score file that a choice is about: as paths, as csv, in words."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from metaqap_fast.review.groups import Alike, duplicates
from metaqap_fast.review.images import Images, from_here
from metaqap_fast.review.select import Choice, chosen, rows_at
from metaqap_fast.scores.committed import check_finished
from metaqap_fast.scores.export import csv_lines
from metaqap_fast.scores.hdf5 import open_scores, read_attributes
from metaqap_fast.scores.merge import chunks
from metaqap_fast.scores.probe import try_out
from metaqap_fast.scores.schema import escaped, of_rows
from metaqap_fast.scores.table import ScoreTable
from metaqap_fast.streams import counted


class Chosen:
    """Rows of a score file.

    Args:
        path: of the score file.
        choice: which of its rows.
        root: folder that the images are in now; None for the one that the file names.

    Raises:
        UsageError: no such file, an impossible choice.
        MetaqapError: it is damaged.
    """

    def __init__(self, path: str | os.PathLike[str], choice: Choice, root: str | None = None) -> None:
        choice.check()
        check_finished(path)
        try_out(path)
        self.path, self.choice, self._root = path, choice, root
        with open_scores(path) as file:
            self.attributes: dict[str, Any] = read_attributes(file)
        self.broken = 0  # of `paths`, those with a newline in them
        self._rows = self._unhashed = self._count = 0
        self._low, self._high = np.inf, -np.inf

    @cached_property
    def images(self) -> Images:
        """Where they are.

        Raises:
            UsageError: see `Images`.
        """
        return Images(self.attributes, self._root)

    def tables(self) -> Iterator[ScoreTable]:
        """The rows, in their order."""
        self._count, self._low, self._high = 0, np.inf, -np.inf
        for table in chosen(self._all, self.choice):
            self._count += len(table)
            if (scores := table.score[table.ok]).size:
                self._low, self._high = min(self._low, scores.min()), max(self._high, scores.max())
            yield table

    def _all(self) -> Iterator[ScoreTable]:
        self._rows = self._unhashed = 0
        for table in chunks(self.path):
            self._rows += len(table)
            self._unhashed += int((table.ok & (table.columns["hash"] == 0)).sum())
            yield table

    def paths(self, end: bytes) -> Iterator[bytes]:
        """Their paths from here, each with `end` behind it; keys where it is not known which folder they are in."""
        known = self._root is not None or "root" in self.attributes
        for table in self.tables():
            names = [from_here(self.images.place(key).path) if known else key for key in table.keys]
            self.broken += sum(b"\n" in name for name in names)
            yield b"".join(name + end for name in names)

    def csv(self) -> Iterator[bytes]:
        """Their rows, as an export has them; of duplicates, which image is better and how surely."""
        if self.choice.duplicates:
            yield from self._pairs(self.choice.duplicates)
            return
        empty = ScoreTable(of_rows([], self.attributes), self.attributes)
        yield csv_lines(empty, header=True)
        for table in self.tables():
            yield csv_lines(table, header=False)

    def better(self) -> dict[bytes, bytes]:
        """Of duplicates, the key of the image that each looks like and that is kept."""
        if not self.choice.duplicates or (pairs := self._beside(self.choice.duplicates)) is None:
            return {}
        ours, best, places, _ = pairs
        return dict(zip(ours.keys, (best.keys[at] for at in places), strict=True))

    def _pairs(self, alike: Alike) -> Iterator[bytes]:
        pairs = self._beside(alike)
        yield b"path,score,uncertainty,best,best_score,probability\n"
        self._count = 0 if pairs is None else len(pairs[0])
        if pairs is None:
            return
        ours, best, places, probability = pairs
        text = io.StringIO()
        out = csv.writer(text, lineterminator="\n")
        for i, at in enumerate(places):
            numbers = (str(ours.score[i]), str(ours.uncertainty[i]))
            other = (escaped(best.keys[at]), str(best.score[at]))
            out.writerow([escaped(ours.keys[i]), *numbers, *other, f"{probability[i]:.4f}"])
        yield text.getvalue().encode()

    def _beside(self, alike: Alike) -> tuple[ScoreTable, ScoreTable, list[int], Any] | None:
        """Duplicates, the images that are kept, of each duplicate the row of its own there, and how surely that is
        the better one; None without any."""
        found = duplicates(self._all(), alike)
        if not len(found.rows):
            return None
        kept = np.unique(found.best)
        places = np.searchsorted(kept, found.best).tolist()
        return rows_at(self._all, found.rows), rows_at(self._all, kept), places, found.probability

    def summary(self) -> str:
        """How many they are, after all of `tables` have been read."""
        scores = f" (scores {self._low:.3f} to {self._high:.3f})" if self._low <= self._high else ""
        rest = ""
        if self.choice.duplicates and self._unhashed:
            rest = f"; {counted(self._unhashed, 'image')} without a perceptual hash not compared"
        return f"{self._count:,} of {counted(self._rows, 'image')} selected{scores}{rest}"
