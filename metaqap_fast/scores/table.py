"""Score tables in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.errors import Status
from metaqap_fast.records import Row

COLUMNS = ("keys", "score", "uncertainty", "members", "status", "error", "width", "height", "nbytes")


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Rows as columns of equal length.

    keys: paths as bytes. score, uncertainty: [N] float32, 0 worst to 1 best, NaN where failed. members:
    [N, M] float32. status: [N] uint8, see `Status`. error: N texts. width, height: [N] uint32, pixels as
    displayed. nbytes: [N] uint64. attributes: how the scores were made.
    """

    keys: list[bytes]
    score: NDArray[np.float32]
    uncertainty: NDArray[np.float32]
    members: NDArray[np.float32]
    status: NDArray[np.uint8]
    error: list[str]
    width: NDArray[np.uint32]
    height: NDArray[np.uint32]
    nbytes: NDArray[np.uint64]
    attributes: dict[str, Any]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, rows: slice) -> ScoreTable:
        return ScoreTable(**{name: getattr(self, name)[rows] for name in COLUMNS}, attributes=self.attributes)

    @classmethod
    def concatenate(cls, tables: Sequence[ScoreTable]) -> ScoreTable:
        """The rows of one or more tables, with the first one's attributes."""
        columns: dict[str, Any] = {}
        for name in COLUMNS:
            parts = [getattr(table, name) for table in tables]
            columns[name] = list(chain(*parts)) if isinstance(parts[0], list) else np.concatenate(parts)
        return cls(**columns, attributes=tables[0].attributes)

    @property
    def paths(self) -> list[str]:
        """Keys as text; bytes that are not UTF-8 by surrogateescape, as `os.fsdecode` does."""
        return [os.fsdecode(key) for key in self.keys]

    @property
    def ok(self) -> NDArray[np.bool_]:
        """[N] True where the image was scored."""
        return np.asarray(self.status == Status.ok)

    @classmethod
    def from_rows(cls, rows: Sequence[Row], attributes: Mapping[str, Any]) -> ScoreTable:
        """Columns of a list of rows; `attributes["members"]` gives the width of an empty table."""
        m = len(attributes["members"])
        return cls(
            [row.key for row in rows],
            np.array([row.score for row in rows], np.float32),
            np.array([row.uncertainty for row in rows], np.float32),
            np.array([row.members for row in rows], np.float32).reshape(len(rows), m),
            np.array([row.status for row in rows], np.uint8),
            [row.error for row in rows],
            np.array([row.width for row in rows], np.uint32),
            np.array([row.height for row in rows], np.uint32),
            np.array([row.nbytes for row in rows], np.uint64),
            dict(attributes),
        )

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ScoreTable:
        """Read a score file.

        Raises:
            UsageError: no such file.
            MetaqapError: not a score file, damaged, or of a newer format.
        """
        from metaqap_fast.scores.hdf5 import open_scores, read_rows

        with open_scores(path) as file:
            return read_rows(file)
