"""Rows to committed part files. Several processes may write parts of one run, each with a name of its own."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from metaqap_fast.errors import MetaqapError
from metaqap_fast.options import ROWS_PER_PART, SECONDS_PER_PART
from metaqap_fast.records import Row, key_order
from metaqap_fast.scores.durable import digest, sync_folder, write_scores
from metaqap_fast.scores.table import ScoreTable

NAME = re.compile(r"part-(\d+)-[0-9a-f]+\.(?:h5|damaged)$")


class Parts:
    """Takes rows, and makes a part of them every now and then.

    Args:
        folder: of the parts.
        attributes: root attributes of the score file.
        number: of the first part; of a key that stands in several, the one with the highest number counts.
        rows_per_part, seconds_per_part: a part is committed at whichever comes first.
        committed: called with each part once it is safe.
        writer: tells processes that write to one folder apart.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        attributes: Mapping[str, Any],
        number: int = 0,
        rows_per_part: int = ROWS_PER_PART,
        seconds_per_part: float = SECONDS_PER_PART,
        committed: Callable[[Path], object] = lambda _: None,
        writer: str = "0",
    ) -> None:
        self.rows_per_part, self.seconds_per_part = rows_per_part, seconds_per_part
        self._folder, self._attributes, self._number = folder, attributes, number
        self._report = committed
        self._partial = folder / f"writing-{writer}.tmp"
        self._waiting: list[Row] = []
        self._committed = time.monotonic()
        write_scores(self._partial, attributes, [])  # what cannot be written is found before any scoring
        sync_folder(folder)

    def add(self, row: Row) -> None:
        """Take a row; it is safe once its part is committed."""
        self._waiting.append(row)
        late = time.monotonic() - self._committed > self.seconds_per_part
        if len(self._waiting) >= self.rows_per_part or late:
            self.commit()

    def commit(self) -> None:
        """Make every row taken so far durable: write, fsync, rename, fsync the folder.

        Raises:
            MetaqapError: it cannot be written (a full disk, a folder that is gone); earlier parts stay.
        """
        self._committed = time.monotonic()
        if not self._waiting:
            return
        table = ScoreTable.from_rows(sorted(self._waiting, key=lambda row: key_order(row.key)), self._attributes)
        try:
            write_scores(self._partial, self._attributes, [table])
            path = self._folder / f"part-{self._number:06d}-{digest(self._partial)}.h5"
            self._partial.rename(path)
            sync_folder(self._folder)
        except (OSError, RuntimeError, ValueError) as error:  # h5py raises each of these for a full disk
            raise cannot_write(self._folder, self._folder, error) from None
        self._waiting.clear()
        self._number += 1
        self._report(path)


def number_of(path: Path) -> int | None:
    """The number of a part, also of a damaged one; None for another file."""
    match = NAME.match(path.name)
    return int(match[1]) if match else None


def intact(path: Path) -> bool:
    """Whether a part is what was committed: its name holds its digest."""
    return path.exists() and path.stem.rpartition("-")[2] == digest(path)


def cannot_write(path: Path, folder: Path, error: Exception) -> MetaqapError:
    """What to tell: also what is left of the parts in `folder`."""
    gone = "" if folder.is_dir() else f"; {folder} was removed while the run was using it"
    return MetaqapError(f"cannot write {path}: {error}{gone}. Go on with --resume: it keeps every row on disk")
