"""Rows written as they come, for another program that reads them: nothing is kept, and nothing can be resumed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import IO, Any

from metaqap_fast.records import Row
from metaqap_fast.scores.export import LINES
from metaqap_fast.scores.table import ScoreTable

ROWS, SECONDS = 1000, 1.0  # written at whichever comes first


class Lines:
    """Takes rows and writes them as lines, in the order in which they come.

    Args:
        file: what is written to.
        form: `.csv` or `.jsonl`.
        attributes: as the root attributes of a score file.
    """

    def __init__(self, file: IO[bytes], form: str, attributes: Mapping[str, Any]) -> None:
        self._file, self._lines, self._attributes = file, LINES[form], attributes
        self._waiting: list[Row] = []
        self._header, self._written = True, time.monotonic()

    def add(self, row: Row) -> None:
        """Take a row; it is written soon."""
        self._waiting.append(row)
        if len(self._waiting) >= ROWS or time.monotonic() - self._written > SECONDS:
            self.commit()

    def commit(self) -> None:
        """Write every row taken so far; at first the header, also without rows."""
        self._written = time.monotonic()
        if self._waiting or self._header:
            table = ScoreTable.from_rows(self._waiting, self._attributes)
            self._waiting = []
            self._file.write(self._lines(table, self._header))
            self._file.flush()
            self._header = False
