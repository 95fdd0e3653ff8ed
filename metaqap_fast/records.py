"""The forms that one image takes on its way: Entry, Encoded, Decoded, Scored, Row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.errors import ImageError, Status

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Entry:
    """One image to score: its key and the file it is read from."""

    key: bytes
    path: bytes


@dataclass(frozen=True, slots=True)
class Encoded:
    """An image's bytes, or why there are none."""

    key: bytes
    data: bytes | memoryview
    error: ImageError | None = None


@dataclass(frozen=True, slots=True)
class Decoded:
    """One image as views [N, S, S, 3] uint8 (N = 0 where `error` says why)."""

    key: bytes
    nbytes: int
    views: Pixels
    width: int = 0  # as displayed, in pixels
    height: int = 0
    error: ImageError | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """One image's members [M] (the mean over its views), score and uncertainty; NaN without views."""

    members: NDArray[np.float32]
    score: float
    uncertainty: float


@dataclass(frozen=True, slots=True)
class Row:
    """One image's result."""

    key: bytes
    status: Status
    error: str
    score: float  # 0 worst to 1 best, NaN where failed
    uncertainty: float
    members: NDArray[np.float32]  # [M]
    width: int
    height: int
    nbytes: int


def key_order(key: bytes) -> bytes:
    """Sort key of an image key: compares as the list of its path components does, in a third of the memory."""
    return key.replace(b"/", b"\0")
