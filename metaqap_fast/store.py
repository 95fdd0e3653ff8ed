"""Rows to HDF5 without losing one: committed part files, resume, and the merge.

While a run is going on, `scores.h5.parts/` holds

    run.json              what decides the scores; a resumed run must agree with it
    lock                  held by the running process (its id inside)
    part-000007-HASH.h5   rows, committed: written, fsynced, renamed; HASH is the sha256 of the file

A part is there whole or not at all. At the end all rows are merged in the order of their keys into a
temporary file, which is fsynced and renamed to the output; then the folder goes. A finished output that is
resumed counts as one more part.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.source import key_order
from metaqap_fast.table import Row, ScoreTable, append_rows, create_scores, open_scores, read_rows

Mode = Literal["new", "resume", "overwrite"]
ROWS_PER_PART = 1000
SECONDS_PER_PART = 10.0
# What a resumed run must share with the rows that are there already.
IDENTITY = ("bundle_digest", "precision", "engine", "preprocessing", "program_version")

log = logging.getLogger(__name__)


class Store:
    """The output of one run.

    Args:
        output: the score file to make.
        attributes: root attributes of the score file.
        mode: `new` refuses an existing output or an interrupted run's parts; `resume` keeps their rows;
            `overwrite` removes them (the old output only when the new one is complete).
        rows_per_part, seconds_per_part: a part is committed at whichever comes first.

    Raises:
        UsageError: an existing output, parts of another kind of run, another run on the same output.
        MetaqapError: the folder cannot be written.
    """

    def __init__(
        self,
        output: str | os.PathLike[str],
        attributes: Mapping[str, Any],
        mode: Mode = "new",
        rows_per_part: int = ROWS_PER_PART,
        seconds_per_part: float = SECONDS_PER_PART,
    ) -> None:
        self.output, self.parts = Path(output), _parts(output)
        self.rows_per_part, self.seconds_per_part = rows_per_part, seconds_per_part
        self.done: set[bytes] = set()
        self._waiting: list[Row] = []
        self._committed = time.monotonic()
        self._next = 0
        self._lock: IO[str] | None = None
        self._base = [self.output] if mode == "resume" and self.output.exists() else []
        check_output(output, mode)
        try:
            self.parts.mkdir(exist_ok=True)
            self._take_lock()
            if mode == "overwrite":
                for part in self.parts.glob("part-*.h5"):
                    part.unlink()
                (self.parts / "run.json").unlink(missing_ok=True)
            self.attributes = self._agree({"created": _now(), **attributes}, mode)
        except OSError as error:
            raise MetaqapError(f"cannot write {self.parts}: {error.strerror or error}") from None
        if mode == "resume":
            self._recover()

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
        table = ScoreTable.from_rows(self._waiting, self.attributes)
        partial = self.parts / "part.tmp"
        try:
            with create_scores(partial, self.attributes) as file:
                append_rows(file, table)
            name = f"part-{self._next:06d}-{_fsync_and_hash(partial)}.h5"
            partial.rename(self.parts / name)
            _fsync_folder(self.parts)
        except (OSError, RuntimeError, ValueError) as error:  # h5py raises each of these for a full disk
            raise MetaqapError(
                f"cannot write {self.parts}: {error}. Rows committed so far are safe; go on with --resume"
            ) from None
        self.done.update(table.keys)
        self._waiting.clear()
        self._next += 1

    def finish(self) -> None:
        """Commit, merge all parts into the output in the order of the keys, and remove them.

        Raises:
            MetaqapError: it cannot be written; the parts stay.
        """
        self.commit()
        partial = self.output.with_name(f".{self.output.name}.merging")
        try:
            with create_scores(partial, self.attributes) as file:
                for table in self._merged():
                    append_rows(file, table)
            _fsync_and_hash(partial)
            partial.replace(self.output)
            _fsync_folder(self.output.parent)
        except (OSError, RuntimeError, ValueError) as error:
            partial.unlink(missing_ok=True)
            raise MetaqapError(
                f"cannot write {self.output}: {error}. All rows are safe in {self.parts}; go on with --resume"
            ) from None
        self.close()
        shutil.rmtree(self.parts, ignore_errors=True)

    def close(self) -> None:
        """Release the lock. Committed rows stay for `--resume`; an unused folder goes."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
            if not self.done and not any(self.parts.glob("part-*.h5")):
                shutil.rmtree(self.parts, ignore_errors=True)

    def _take_lock(self) -> None:
        self._lock = open(self.parts / "lock", "a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "unknown"
            self._lock.close()
            self._lock = None
            raise UsageError(f"another run (process {owner}) is writing {self.output}") from None
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    def _agree(self, attributes: dict[str, Any], mode: Mode) -> dict[str, Any]:
        """The run's attributes: those on disk if rows are there already and were made the same way."""
        found: dict[str, Any] | None = None
        path = self.parts / "run.json"
        if mode == "resume" and path.exists():
            found = json.loads(path.read_text())
        elif mode == "resume" and self.output.exists():
            with open_scores(self.output) as file:
                found = read_rows(file, slice(0)).attributes
        if found is not None:
            for name in IDENTITY:
                if found.get(name) != attributes.get(name):
                    self.close()
                    raise UsageError(
                        f"cannot resume {self.output}: its rows were made with {name} {found.get(name)!r}, "
                        f"this run has {attributes.get(name)!r}. Use the same, or --overwrite"
                    )
            attributes = {k: v for k, v in found.items() if k not in ("format", "format_version")}
        partial = self.parts / "run.json.tmp"
        partial.write_text(json.dumps(attributes))
        partial.replace(path)
        return attributes

    def _recover(self) -> None:
        """Take over committed parts; a damaged one is named and its rows are scored again."""
        for path in sorted(self.parts.glob("part-*.h5")):
            self._next = max(self._next, int(path.name[5:11]) + 1)
            if path.stem.rpartition("-")[2] != _hash(path):
                log.warning("%s is damaged: its rows are scored again", path)
                path.rename(path.with_suffix(".damaged"))
                continue
            self.done.update(ScoreTable.read(path).keys)
        for path in self._base:
            self.done.update(ScoreTable.read(path).keys)

    def _merged(self) -> Iterator[ScoreTable]:
        """All rows in the order of their keys, a part's worth at a time; of a double key the first."""
        paths = [*self._base, *sorted(self.parts.glob("part-*.h5"))]
        places: list[tuple[list[bytes], int, int]] = []
        for p, path in enumerate(paths):
            with open_scores(path) as file:
                keys = file["scores/path"][:]
            places += [(key_order(bytes(key)), p, i) for i, key in enumerate(keys)]
        places.sort()
        unique = [place for n, place in enumerate(places) if not n or places[n - 1][0] != place[0]]
        start = 0
        while start < len(unique):  # runs of rows that stand side by side in one part
            part, first = unique[start][1:]
            stop = start + 1
            while (
                stop < len(unique) and stop - start < ROWS_PER_PART and unique[stop][1:] == (part, first + stop - start)
            ):
                stop += 1
            with open_scores(paths[part]) as file:
                yield read_rows(file, slice(first, first + stop - start))
            start = stop


def check_output(output: str | os.PathLike[str], mode: Mode) -> None:
    """Whether a run may write there; nothing is touched.

    Raises:
        UsageError: a folder, a folder that is missing, or in mode `new` rows that would be lost.
    """
    path = Path(output)
    if path.is_dir():
        raise UsageError(f"{path} is a folder; the output is a file")
    if not path.parent.is_dir():
        raise UsageError(f"the output's folder does not exist: {path.parent}")
    if mode == "new" and path.exists():
        raise UsageError(f"{path} exists; give --resume, --overwrite or another -o")
    if mode == "new" and any(_parts(path).glob("part-*.h5")):
        raise UsageError(f"{_parts(path)} holds rows of an interrupted run; give --resume or --overwrite")
    if not os.access(path.parent, os.W_OK):
        raise MetaqapError(f"cannot write to {path.parent}: permission denied")


def _parts(output: str | os.PathLike[str]) -> Path:
    path = Path(output)
    return path.with_name(path.name + ".parts")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _fsync_and_hash(path: Path) -> str:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
    return _hash(path)


def _fsync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
