"""Rows to a file without losing one: committed part files, resume, and the merge.

While a run is going on, `scores.h5.parts/` holds

    run.json              what decides the scores; a resumed run must agree with it
    lock                  held by the running process (its id inside)
    part-000007-HASH.h5   rows, committed: written, fsynced, renamed; HASH is the sha256 of the file

A part is there whole or not at all; its rows are sorted. At the end all parts are merged in the order of their
keys into a temporary file, which is fsynced and renamed to the output, as a single part is at once; then the folder
goes. A finished output that is resumed counts as one more part. So do outputs in other forms (csv, jsonl, parquet),
but a finished one of those cannot be resumed.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from metaqap_fast.errors import MetaqapError, Status
from metaqap_fast.options import HDF5, ROWS_PER_PART, SECONDS_PER_PART, OutputMode
from metaqap_fast.records import Row
from metaqap_fast.scores.claim import Claim, merging
from metaqap_fast.scores.done import Done, KeySet
from metaqap_fast.scores.durable import sync_folder
from metaqap_fast.scores.export import write_table_file
from metaqap_fast.scores.hdf5 import open_scores, read_attributes
from metaqap_fast.scores.identity import agreed
from metaqap_fast.scores.merge import check_columns, chunks, merged
from metaqap_fast.scores.parts import Parts, cannot_write, intact, number_of
from metaqap_fast.scores.probe import try_out
from metaqap_fast.scores.totals import Totals

log = logging.getLogger(__name__)


class Store:
    """The output of one run.

    Args:
        output: the file to make, or the claim to it, which the store then holds.
        attributes: root attributes of the score file.
        mode: `new` refuses an existing output or an interrupted run's parts; `resume` keeps their rows;
            `overwrite` removes them (the old output only when the new one is complete). A claim has its own.
        rows_per_part, seconds_per_part: a part is committed at whichever comes first.
        moved: with `resume`: the folder that keys are relative to is the same one in another place.

    Attributes:
        done: the rows that are there already. totals: the sum of them.

    Raises:
        UsageError: an existing output, parts of another kind of run, another run on the same output.
        MetaqapError: the folder cannot be written.
    """

    def __init__(
        self,
        output: str | os.PathLike[str] | Claim,
        attributes: Mapping[str, Any],
        mode: OutputMode = "new",
        rows_per_part: int = ROWS_PER_PART,
        seconds_per_part: float = SECONDS_PER_PART,
        moved: bool = False,
    ) -> None:
        self._claim = output if isinstance(output, Claim) else Claim(output, mode)
        self.output, self.parts, mode = self._claim.output, self._claim.parts, self._claim.mode
        self.done, self.totals = Done(), Totals()
        self.number = 0  # of the next part
        # Sorted score files that make up the output, the newest last.
        self._files = [self.output] if mode == "resume" and self.output.exists() else []
        try:
            try_out(*self._files)
            self._named = {name: attributes[name] for name in ("source", "roots") if name in attributes}
            if mode == "overwrite":
                for part in self.parts.glob("part-*.h5"):
                    part.unlink()
                (self.parts / "run.json").unlink(missing_ok=True)
            self.attributes = self._agree({"created": _now(), **attributes}, mode, moved)
            if mode == "resume":
                self._recover()
                check_columns(self._files)
                self.done = Done(self.totals.passing(merged(self._files)))
            self._writer = Parts(
                self.parts, self.attributes, self.number, rows_per_part, seconds_per_part, self._files.append
            )
        except OSError as error:
            self.close()
            raise MetaqapError(f"cannot write {self.parts}: {error.strerror or error}") from None
        except BaseException:
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

    def finish(self, prune: bool = False) -> Totals | None:
        """Commit, merge all parts into the output in the order of the keys, and remove them.

        With `prune` the rows of images go that the source has not named; but not of those in a folder or an archive
        that could not be read.

        Returns:
            What is in the output; None if its rows did not have to be read again.

        Raises:
            MetaqapError: it cannot be written; the parts stay.
        """
        self.commit()
        partial, totals = merging(self.output), None
        try:
            for path in self._files:
                if path != self.output and not intact(path):
                    raise OSError(f"{path.name} has been damaged or removed since it was written")
            suffix, keep = self._claim.suffix, self._kept() if prune else None
            if prune:  # nothing else is in it any more
                self.attributes = {**self.attributes, **self._named}
            if len(self._files) == 1 and suffix in HDF5 and keep is None and self._is_current(self._files[0]):
                whole = self._files[0]
            else:
                totals = Totals()
                tables = totals.passing(merged(self._files, keep))
                write_table_file(partial, suffix, self.attributes, tables)
                whole = partial
            whole.replace(self.output)
            sync_folder(self.output.parent)
        except (OSError, RuntimeError, ValueError, MetaqapError) as error:
            raise cannot_write(self.output, self.parts, error) from None
        finally:
            partial.unlink(missing_ok=True)
        shutil.rmtree(self.parts, ignore_errors=True)
        self.close()
        return totals

    def close(self) -> None:
        """Release the lock. Committed rows stay for `--resume`; an unused folder goes."""
        self._claim.close()

    def _kept(self) -> Callable[[bytes], bool]:
        """Whether the row of a key stays when others are pruned."""
        tables = (table for path in self._files for table in chunks(path))
        unreadable = KeySet(
            key for table in tables for key in table[table.status == Status.unreadable].keys
        )  # fmt: skip

        def kept(key: bytes) -> bool:
            return not self.done.is_gone(key) or any(folder in unreadable for folder in folders(key))

        return kept

    def _is_current(self, path: Path) -> bool:
        """Whether a file says of its rows what is now to be said; a part does."""
        if path != self.output:
            return True
        with open_scores(path) as file:
            found = read_attributes(file)
        return {**found, **json.loads(json.dumps(self.attributes))} == found

    def _agree(self, attributes: dict[str, Any], mode: OutputMode, moved: bool) -> dict[str, Any]:
        """The run's attributes: those on disk if rows are there already and were made the same way."""
        found: dict[str, Any] | None = None
        path = self.parts / "run.json"
        if mode == "resume" and path.exists():
            found = _read_json(path)
        elif mode == "resume" and self.output.exists():
            with open_scores(self.output) as file:
                found = read_attributes(file)
        if found is not None:
            attributes = agreed(self.output, found, attributes, moved)
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


def folders(key: bytes) -> Iterator[bytes]:
    """The keys of what a key lies in: of a/b/c, a/b and a."""
    while (end := key.rfind(b"/")) > 0:
        yield (key := key[:end])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
        if isinstance(found, dict):
            return found
    except ValueError:
        pass
    raise MetaqapError(f"{path} is damaged: the program cannot tell how the rows beside it were made; give --overwrite")
