"""A benchmark run on disk: a folder that is whole or does not count.

    run.json        format, version, kind, settings, environment, when it began
    samples.jsonl   every raw sample, one a line, written as it comes
    ...             what else a kind keeps (scores, ...)
    complete.json   written last: sha256 of every other file. Without it there is no run.

A run is never changed. What is reported is computed from its raw samples each time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from metaqap_fast.bench import environment
from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.scores.durable import sync_folder

FORMAT = "metaqap-bench"
VERSION = 1
KINDS = ("throughput", "limit", "peers", "accuracy", "scale")
_RUN, _SAMPLES, _MARKER = "run.json", "samples.jsonl", "complete.json"


class RunError(MetaqapError):
    """A folder that holds no whole run."""


@dataclass(frozen=True, slots=True)
class Run:
    """A checked run."""

    path: Path
    kind: str
    created: str
    settings: dict[str, Any]
    environment: dict[str, Any]
    samples: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """The folder's."""
        return self.path.name


class Recorder:
    """Writes a run; `finish` makes it one.

    Raises:
        UsageError: the folder exists, or the one that it is to stand in does not.
    """

    def __init__(self, path: Path, kind: str, settings: Mapping[str, Any]) -> None:
        if path.exists():
            raise UsageError(f"{path} exists; a run is never changed: give another -o")
        if not path.absolute().parent.is_dir():
            raise UsageError(f"the run's folder does not exist: {path.absolute().parent}")
        self.path = path
        path.mkdir()
        document = {
            "format": FORMAT,
            "format_version": VERSION,
            "kind": kind,
            "created": _now(),
            "settings": dict(settings),
            "environment": environment.describe(),
        }
        self.attach(_RUN, json.dumps(document, indent=1) + "\n")
        self._samples: IO[str] = open(path / _SAMPLES, "x")

    def add(self, sample: Mapping[str, Any]) -> None:
        """Keep one raw sample."""
        self._samples.write(json.dumps(sample) + "\n")
        self._samples.flush()

    def attach(self, name: str, text: str) -> None:
        """Keep a file."""
        with open(self.path / name, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> Path:
        """Everything on disk, then the marker; the run's folder."""
        os.fsync(self._samples.fileno())
        self._samples.close()
        digests = {file.name: _digest(file) for file in sorted(self.path.iterdir())}
        self.attach(f"{_MARKER}.tmp", json.dumps({"finished": _now(), "sha256": digests}, indent=1) + "\n")
        (self.path / f"{_MARKER}.tmp").rename(self.path / _MARKER)
        sync_folder(self.path)
        return self.path


def read(path: str | os.PathLike[str]) -> Run:
    """A run, checked against its marker.

    Raises:
        RunError: an interrupted run, a file that differs from its checksum or is missing, no run at all, a format
            of another version.
    """
    path = Path(path)
    try:
        text = (path / _MARKER).read_text()
    except OSError:
        if (path / _RUN).exists():
            raise RunError(f"{path} is an interrupted run (without {_MARKER}): its samples are not reported") from None
        raise RunError(f"{path} is not a benchmark run") from None
    try:
        digests = dict(json.loads(text)["sha256"])
        for file in sorted({file.name for file in path.iterdir()} | set(digests)):
            if file != _MARKER and (file not in digests or _digest(path / file) != digests[file]):
                raise RunError(f"{path}: {file} is not the file that {_MARKER} describes")
        document = json.loads((path / _RUN).read_text())
        if document["format"] != FORMAT or document["format_version"] != VERSION or document["kind"] not in KINDS:
            raise RunError(
                f"{path} has format {document['format']} {document['format_version']}, not {FORMAT} {VERSION}"
            )
        samples = [json.loads(line) for line in (path / _SAMPLES).read_text().splitlines()]
        return Run(path, document["kind"], document["created"], document["settings"], document["environment"], samples)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is damaged: {type(error).__name__}: {error}") from None


def default_path(kind: str) -> Path:
    """Where a run goes that was given no name."""
    return Path(f"bench-{kind}-{datetime.now(UTC):%Y%m%dT%H%M%S}")


def _digest(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return "missing"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
