"""A scorer that needs no model: the score of a file is made of its bytes. For tests of what is around a scorer."""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from metaqap_fast.errors import Status
from metaqap_fast.input import open_sources
from metaqap_fast.input.reading import read_bytes
from metaqap_fast.records import Entry, Row
from metaqap_fast.run import attributes_of, stamped
from metaqap_fast.scores.store import Store

NONE = np.full(2, np.nan, np.float32)


class Quick:
    """Takes the place of `Scorer`. `asked`: the keys that it was asked for, by all of them."""

    asked: list[bytes] = []  # noqa: RUF012 -- one for all, that a test looks at

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.engine = SimpleNamespace(name="quick", reason="a test", precision="fp32", device="cpu")
        self.bundle = SimpleNamespace(name="toy", members=["a", "b"], view_size=8)
        self.views = "fit"

    def describe(self) -> dict[str, Any]:
        return {
            "bundle": "toy", "bundle_digest": "d1", "members": ["a", "b"], "engine": "quick", "engine_version": "1",
            "precision": "fp32", "device": "cpu", "preprocessing": "views=fit, view size 8", "decoder": "x",
        }  # fmt: skip

    def stream(self, entries: Iterable[Entry], trace: Any = None) -> Generator[Row]:
        for entry in entries:
            self.asked.append(entry.key)
            yield row_of(entry)

    def close(self) -> None:
        pass


def row_of(entry: Entry) -> Row:
    """A file that holds "bad" is corrupt."""
    found = read_bytes(entry)
    data = bytes(found.data)
    if found.error or data.startswith(b"bad"):
        status, why = (found.error.status, found.error.reason) if found.error else (Status.corrupt, "bad bytes")
        return Row(entry.key, float("nan"), float("nan"), NONE, status, why, 0, 0, len(data))
    value = score_of(data)
    return Row(entry.key, value, 0.1, np.array([value, value], np.float32), Status.ok, "", 3, 2, len(data))


def score_of(data: bytes) -> float:
    """0 to 1."""
    return float(np.float32(zlib.crc32(data) / 2**32))


def use(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Make the command line score with `Quick`; the list of what it is asked for."""
    monkeypatch.setattr("metaqap_fast.scorer.Scorer", Quick)
    monkeypatch.setattr(Quick, "asked", [])
    # No process that reads each score file first: there are many here, and it takes half a second.
    monkeypatch.setattr("metaqap_fast.scores.probe.child.command", lambda *_: ["true"])
    return Quick.asked


def files(folder: Path, **contents: str) -> Path:
    """A folder with these as a.jpg, b.jpg, ...; `x__a` is x/a.jpg."""
    for name, text in contents.items():
        path = folder / (name.replace("__", "/") + ".jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def interrupted(folder: Path, out: Path, rows: int) -> None:
    """What a run leaves that was interrupted after so many rows."""
    source, scorer = open_sources([folder]), Quick()
    store = Store(out, attributes_of(scorer.describe(), source), rows_per_part=2)
    for row in islice(stamped(scorer, source), rows):  # type: ignore[arg-type]
        store.add(row)
    store.commit()
    store.close()
