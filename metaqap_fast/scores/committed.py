"""What of an output is on disk: the file, and the parts of a run that has not come to its end."""

from __future__ import annotations

import json
import os
from pathlib import Path

from metaqap_fast.errors import UsageError
from metaqap_fast.options import HDF5
from metaqap_fast.scores.claim import parts_of, real, writer_of
from metaqap_fast.scores.hdf5 import open_scores, read_attributes
from metaqap_fast.scores.parts import intact, number_of
from metaqap_fast.scores.probe import try_out
from metaqap_fast.streams import counted


def committed(output: str | os.PathLike[str]) -> list[Path]:
    """Score files with the rows of an output, the newest last; of an interrupted run those that are whole."""
    path, folder = real(output), parts_of(output)
    return [*([path] if path.exists() and Path(output).suffix.lower() in HDF5 else []), *_parts(folder)]


def _parts(folder: Path) -> list[Path]:
    try:
        found = [(number, path) for path in folder.iterdir() if (number := number_of(path)) is not None]
    except OSError:
        return []
    return [path for _, path in sorted(found) if path.suffix == ".h5" and intact(path)]


def root_of(output: str | os.PathLike[str]) -> str | None:
    """URL of the folder that the keys of an output are relative to; None without rows, or if it is not recorded."""
    try:
        found = json.loads((parts_of(output) / "run.json").read_bytes())
    except (OSError, ValueError):
        found = None
        for path in committed(output)[:1]:
            try_out(path)
            with open_scores(path) as file:
                found = read_attributes(file)
    return found.get("root") if isinstance(found, dict) else None


def unfinished(output: str | os.PathLike[str]) -> str:
    """What to say of a run that is writing an output, or was interrupted; empty without one."""
    parts = _parts(parts_of(output))
    if (writer := writer_of(output)) is not None:
        return f"process {writer} is writing it, with {counted(len(parts), 'part')} committed to {parts_of(output)}"
    if parts:
        return (
            f"a run was interrupted, with {counted(len(parts), 'part')} committed to {parts_of(output)}: go on with "
            "--resume"
        )
    return ""


def check_finished(path: str | os.PathLike[str]) -> None:
    """Whether a score file is there to be read.

    Raises:
        UsageError: it is not; the message says what there is of it.
    """
    if Path(path).exists():
        return
    rows = unfinished(path)
    hint = f", but {rows}; or take what there is: merge {parts_of(path)} -o FILE" if rows else ""
    raise UsageError(f"no such file: {path}{hint}")
