"""Rows as the scorer makes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metaqap_fast.errors import Status
from metaqap_fast.records import Row

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
