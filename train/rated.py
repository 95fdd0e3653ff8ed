"""Rated pictures of other sets, which are large: what a bundle's members see in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.errors import UsageError
from metaqap_fast.train import rungs
from metaqap_fast.train.features import decoded
from metaqap_fast.train.seen import Eyes, Pooled, keep, read_kept
from metaqap_fast.train.sets import NamedSet

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rated:
    """Pictures [n] that have a fine view.

    Attributes:
        pooled: of each member, raw taps [n, D], the mean over the usual views.
        fine: the same in their fine views.
        opinion: [n] from 0, the worst, to 1.
        weight: [n], so that each set counts like another.
    """

    pooled: list[Pooled]
    fine: list[Pooled]
    opinion: F64
    weight: F64


def for_choosing(sets: Sequence[NamedSet]) -> list[NamedSet]:
    """Those that may be used to choose and to calibrate by, with opinions on a scale.

    Raises:
        UsageError: there are none.
    """
    found = [one for one in sets if one.part == "validation" and one.opinions == "scale"]
    if not found:
        raise UsageError("no set of the table has the part 'validation' and opinions on a scale")
    return found


def see(eyes: Eyes, sets: Sequence[NamedSet], folder: Path, size: int, lines: int) -> Rated:
    """What members see in rated pictures, those without a fine view left out; kept in `folder`, a file for each set.

    Args:
        eyes: the members.
        sets: the pictures.
        folder: of the cache; another bundle, or other `lines`, need another.
        size: side of a view in pixels.
        lines: that fine views are cut from.

    Raises:
        UsageError: none is large enough to have one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for one in sets:
        stored = folder / f"{rungs.name_of(one.data.files)}.npz"
        if not stored.exists():
            rows, members = _look(eyes, one.data.files, size, lines)
            keep(stored, [rows, *members])
        rows, *members = read_kept(stored)
        if len(rows):
            parts.append([one.data.mos[rows], np.full(len(rows), 1 / len(rows)), *members])
    if not parts:
        raise UsageError("no picture of the rated sets is large enough to have a fine view")
    opinion, weight, *members = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    half = len(members) // 2
    return Rated(members[:half], members[half:], opinion, weight)


def _look(eyes: Eyes, files: Sequence[Path], size: int, lines: int) -> tuple[NDArray[np.int64], list[Pooled]]:
    """Which pictures have a fine view, and what each member sees in their usual views and in that one."""
    with_fine: list[tuple[int, int]] = []  # the place of each in the files, and how many views it has

    def views() -> Iterator[NDArray[np.uint8]]:
        for place, image in enumerate(decoded(files, size, lines)):
            if image.fine:
                with_fine.append((place, len(image.views)))
                yield from image.views

    seen = eyes.look(views())
    members: list[list[Pooled]] = []
    for first in seen:
        _, count = with_fine[len(members)]
        *usual, fine = first, *islice(seen, count - 1)
        means = [np.stack(taps).mean(0, np.float32).astype(np.float16) for taps in zip(*usual, strict=True)]
        members.append([*means, *fine])
    places = np.array([place for place, _ in with_fine], np.int64)
    return places, [np.stack(member) for member in zip(*members, strict=True)]
