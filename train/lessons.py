"""What fine-tuning on damage is taught in a step: ladders of one photograph, and how far scores may be from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from metaqap_fast.train.damage import KINDS, LADDERS
from metaqap_fast.train.rungs import Rung

F64 = NDArray[np.float64]
Rows = NDArray[np.int64]

MARGIN = 0.01  # of MOS on a scale of 0..1, that a milder level is to be above the next
ABOVE = 3.0  # weight of a rung that scores above its original
STILL = 0.3  # of an undamaged photograph's score as it was
ORDER = 0.1  # of neighbours in the wrong order
PROBE = 3.0  # of a change that does no harm, or a known one: each is one level where other kinds have five


@dataclass(frozen=True, slots=True)
class Lesson:
    """Views of one photograph: the row of itself, and of what is done to it, milder before worse.

    `ordered` says that each is to score above the next; without an order each is compared with the photograph alone.
    """

    original: int
    rows: tuple[int, ...]
    ordered: bool


@dataclass(frozen=True, slots=True)
class Taught:
    """What rows [n] are to score.

    Attributes:
        change: [n] from the photograph itself, at most 0; NaN where only the order is known.
        score: [n] of the photograph itself.
        weight: [n] of a row.
    """

    change: F64
    score: F64
    weight: F64


def lessons(rungs: Sequence[Rung]) -> list[Lesson]:
    """Rungs, each photograph's together and itself first, as lessons: a kind at its levels, or one rung."""
    found: dict[tuple[int, int], list[int]] = {}
    single, own = [], {}
    for row, rung in enumerate(rungs):
        if not rung.steps:
            own[rung.photograph] = row
        elif len(rung.steps) == 1 and rung.steps[0].kind in LADDERS and KINDS[rung.steps[0].kind].ordered:
            found.setdefault((rung.photograph, rung.steps[0].kind), []).append(row)
        else:
            single.append(Lesson(own[rung.photograph], (row,), False))
    return [*(Lesson(own[photograph], tuple(rows), True) for (photograph, _), rows in found.items()), *single]


def thinned(lesson: Lesson, levels: int, rng: np.random.Generator) -> Lesson:
    """The same with at most so many rows, in their order."""
    if len(lesson.rows) <= levels:
        return lesson
    chosen = np.sort(rng.choice(len(lesson.rows), levels, replace=False))
    return Lesson(lesson.original, tuple(lesson.rows[place] for place in chosen), lesson.ordered)


def rows_of(chosen: Sequence[Lesson]) -> Rows:
    """Their rows, in order, each lesson's photograph first."""
    return np.array([row for lesson in chosen for row in (lesson.original, *lesson.rows)], np.int64)


def shortfall(chosen: Sequence[Lesson], predicted: Tensor, taught: Taught) -> Tensor:
    """How far predictions [n] of `rows_of(chosen)` are from what is taught; 0 at the best."""
    rows, lengths = rows_of(chosen), [1 + len(lesson.rows) for lesson in chosen]
    first = np.cumsum([0, *lengths[:-1]])  # the places of the photographs themselves
    moved = predicted - predicted[torch.from_numpy(np.repeat(first, lengths))]
    change, weight = taught.change[rows], taught.weight[rows]
    known = torch.from_numpy(np.isfinite(change))
    known[first] = False
    wanted, weigh = (torch.tensor(values, dtype=predicted.dtype)[known] for values in (change, weight))
    off = moved[known] - wanted
    total = (weigh * off.square()).sum() / max(1, len(off)) + ABOVE * functional.relu(moved).square().mean()
    still = torch.tensor(taught.score[rows[first]], dtype=predicted.dtype)
    total = total + STILL * (predicted[first] - still).square().mean()
    milder = [
        at + i for at, lesson in zip(first, chosen, strict=True) if lesson.ordered for i in range(len(lesson.rows))
    ]
    if milder:
        worse = torch.tensor(milder) + 1
        margin = torch.tensor(np.where(np.isfinite(change[worse.numpy()]), MARGIN, 0.0), dtype=predicted.dtype)
        above = predicted[torch.tensor(milder)] - predicted[worse]
        total = total + ORDER * functional.relu(margin - above).mean()
    return total
