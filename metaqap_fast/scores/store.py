"""Rows to HDF5 without losing one: committed part files, resume, and the merge.

While a run is going on, `scores.h5.parts/` holds

    run.json              what decides the scores; a resumed run must agree with it
    lock                  held by the running process (its id inside)
    part-000007-HASH.h5   rows, committed: written, fsynced, renamed; HASH is the sha256 of the file

A part is there whole or not at all; its rows are sorted. At the end all parts are merged in the order of their
keys into a temporary file, which is fsynced and renamed to the output, as a single part is at once; then the folder
goes. A finished output that is resumed counts as one more part.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.options import ROWS_PER_PART, SECONDS_PER_PART, OutputMode
from metaqap_fast.records import Row
from metaqap_fast.scores.durable import sync_folder, write_scores
from metaqap_fast.scores.hdf5 import open_scores, read_attributes
from metaqap_fast.scores.identity import agreed
from metaqap_fast.scores.merge import KeySet, check_columns, keys_in, merged
from metaqap_fast.scores.parts import Parts, cannot_write, intact, number_of
from metaqap_fast.scores.probe import try_out

# Of a file system without locks: Lustre without -o flock, some of NFS and FUSE.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)

log = logging.getLogger(__name__)


class Store:
    """The output of one run.

    Args:
        output: the score file to make.
        attributes: root attributes of the score file.
        mode: `new` refuses an existing output or an interrupted run's parts; `resume` keeps their rows;
            `overwrite` removes them (the old output only when the new one is complete).
        rows_per_part, seconds_per_part: a part is committed at whichever comes first.
        retry_failed: with `resume`, rows of failed images don't count as done; the new ones replace them.

    `done` holds the keys that need not be scored again.

    Raises:
        UsageError: an existing output, parts of another kind of run, another run on the same output.
        MetaqapError: the folder cannot be written.
    """

    def __init__(
        self,
        output: str | os.PathLike[str],
        attributes: Mapping[str, Any],
        mode: OutputMode = "new",
        rows_per_part: int = ROWS_PER_PART,
        seconds_per_part: float = SECONDS_PER_PART,
        retry_failed: bool = False,
    ) -> None:
        self.output, self.parts = Path(output), _parts(output)
        self.done = KeySet()
        self.number = 0  # of the next part
        self._lock: IO[bytes] | None = None
        # Sorted score files that make up the output, the newest last.
        self._files = [self.output] if mode == "resume" and self.output.exists() else []
        check_output(output, mode)
        for path in self._files:
            try_out(path)
        try:
            self.parts.mkdir(exist_ok=True)
            self._take_lock()
            if mode == "overwrite":
                for part in self.parts.glob("part-*.h5"):
                    part.unlink()
                (self.parts / "run.json").unlink(missing_ok=True)
            self.attributes = self._agree({"created": _now(), **attributes}, mode)
            if mode == "resume":
                self._recover()
                check_columns(self._files)
                self.done = KeySet(keys_in(self._files, failed=not retry_failed))
            self._writer = Parts(
                self.parts, self.attributes, self.number, rows_per_part, seconds_per_part, self._files.append
            )
        except OSError as error:
            self.close()
            raise MetaqapError(f"cannot write {self.parts}: {error.strerror or error}") from None
        except MetaqapError:
            self.close()
            raise

    def add(self, row: Row) -> None:
        """Take a row; it is safe once its part is committed."""
        self._writer.add(row)

    def commit(self) -> None:
        """Make every row taken so far durable.

        Raises:
            MetaqapError: see `Parts.commit`.
        """
        self._writer.commit()

    def adopt(self, part: Path) -> None:
        """Take in a part that another process has committed to the folder of the parts."""
        self._files.append(part)

    def finish(self) -> None:
        """Commit, merge all parts into the output in the order of the keys, and remove them.

        Raises:
            MetaqapError: it cannot be written; the parts stay.
        """
        self.commit()
        partial = _merging(self.output)
        try:
            for path in self._files:
                if path != self.output and not intact(path):
                    raise OSError(f"{path.name} has been damaged or removed since it was written")
            if len(self._files) == 1:
                whole = self._files[0]
            else:
                write_scores(partial, self.attributes, merged(self._files))
                whole = partial
            whole.replace(self.output)
            sync_folder(self.output.parent)
        except (OSError, RuntimeError, ValueError, MetaqapError) as error:
            raise cannot_write(self.output, self.parts, error) from None
        finally:
            partial.unlink(missing_ok=True)
        shutil.rmtree(self.parts, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Release the lock. Committed rows stay for `--resume`; an unused folder goes."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
            if not any(self.parts.glob("part-*")):
                shutil.rmtree(self.parts, ignore_errors=True)

    def _take_lock(self) -> None:
        while True:
            self._lock = open(self.parts / "lock", "a+b", buffering=0)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._lock.seek(0)
                owner = self._lock.read().decode(errors="replace").strip() or "unknown"
                self._lock.close()
                self._lock = None
                raise UsageError(f"another run (process {owner}) is writing {self.output}") from None
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                log.warning("%s is on a file system without locks: let no other run write it", self.output)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._lock.fileno()), os.stat(self._lock.name)):
                    break
            self._lock.close()  # its run ended and removed it, between our open and our lock
            self.parts.mkdir(exist_ok=True)
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()).encode())

    def _agree(self, attributes: dict[str, Any], mode: OutputMode) -> dict[str, Any]:
        """The run's attributes: those on disk if rows are there already and were made the same way."""
        found: dict[str, Any] | None = None
        path = self.parts / "run.json"
        if mode == "resume" and path.exists():
            found = _read_json(path)
        elif mode == "resume" and self.output.exists():
            with open_scores(self.output) as file:
                found = read_attributes(file)
        if found is not None:
            attributes = agreed(self.output, found, attributes)
        partial = self.parts / "run.json.tmp"
        with open(partial, "w") as file:
            json.dump(attributes, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        return attributes

    def _recover(self) -> None:
        """Take over committed parts; a damaged one is named and its rows are scored again."""
        found = [(number, path) for path in self.parts.iterdir() if (number := number_of(path)) is not None]
        for number, path in sorted(found):
            self.number = max(self.number, number + 1)
            if path.suffix != ".h5":  # found damaged before
                continue
            if intact(path):
                self._files.append(path)
            else:
                log.warning("%s is damaged: its rows are scored again", path)
                path.rename(path.with_suffix(".damaged"))


def check_output(output: str | os.PathLike[str], mode: OutputMode) -> None:
    """Whether a run may write there; nothing is touched.

    Raises:
        UsageError: a folder, a folder that is missing, or in mode `new` rows that would be lost.
    """
    path = Path(output)
    try:
        for name in (_parts(path), _merging(path)):
            with suppress(FileNotFoundError, NotADirectoryError):
                name.lstat()
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
    except OSError as error:  # such as a name that is too long
        raise MetaqapError(f"cannot write {path}: {error.strerror or error}") from None


def _parts(output: str | os.PathLike[str]) -> Path:
    path = Path(output)
    return path.with_name(path.name + ".parts")


def _merging(output: Path) -> Path:
    return output.with_name(f".{output.name}.merging")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
        if isinstance(found, dict):
            return found
    except ValueError:
        pass
    raise MetaqapError(f"{path} is damaged, so it cannot be told how the rows beside it were made; give --overwrite")
