"""Rows as the scorer makes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from metaqap_fast.errors import Status
from metaqap_fast.records import Row
from metaqap_fast.scores.store import Store

ATTRIBUTES = {"members": ["a", "b"], "bundle_digest": "d1", "engine": "e", "precision": "fp32", "program_version": "1"}
NAN = float("nan")


def a_row(
    key: bytes,
    score: float = 0.5,
    uncertainty: float = 0.1,
    members: Sequence[float] | None = None,
    status: Status = Status.ok,
    error: str = "",
    width: int = 3,
    height: int = 2,
    nbytes: int = 9,
) -> Row:
    """A scored image, by default of two members; one that failed if `status` is not ok."""
    values = np.array((score, score) if members is None else members, np.float32)
    if status != Status.ok:
        return Row(key, NAN, NAN, np.full_like(values, NAN), status, error, 0, 0, nbytes)
    return Row(key, score, uncertainty, values, status, error, width, height, nbytes)


def rows(*numbers: int) -> list[Row]:
    """Of images 001.jpg, ... with scores of .001, ..."""
    return [a_row(b"%03d.jpg" % n, n / 1000) for n in numbers]


def store_rows(output: Path, items: list[Row], mode: str = "new", per_part: int = 3, finish: bool = True) -> Store:
    """A run that scores these, unless they are there already."""
    store = Store(output, ATTRIBUTES, mode, rows_per_part=per_part)  # type: ignore[arg-type]
    for row in items:
        if row.key not in store.done:
            store.add(row)
    if finish:
        store.finish()
    else:
        store.close()
    return store
