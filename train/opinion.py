"""What people said of damage, on the scale of scores: the target of every rung.

KADID-10k's raters gave each of its 25 kinds at 5 levels a mean opinion from 1 to 5; `damage.KINDS` has what follows for
kinds like those. A link turns an opinion into the share of its own score that a photograph keeps: it is read off the
kinds that a model already orders as people do, so that the scale stays the one of its photographs.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from metaqap_fast.errors import UsageError
from metaqap_fast.train.damage import BEST, KADIS, KINDS
from metaqap_fast.train.distortions import LEVELS
from metaqap_fast.train.ladders import FIRST as TAUGHT
from metaqap_fast.train.rungs import Rung

F64 = NDArray[np.float64]
Opinions = list[tuple[float, ...]]  # of each kind, at each level

# Raters saw the original beside it; without it a photograph in few colours or none is a photograph.
WITHOUT_ORIGINAL = {"saturation, HSV": (4.0, 4.0, 4.2, BEST, 1.9)}
KNOTS = 9  # of the link
LEFT = 0.2


def read_cells(path: Path) -> F64:
    """KADID-10k's mean opinions [25, 5] from a table with the columns id, level and mean_opinion.

    Raises:
        UsageError: a cell that is missing, there twice, unknown, or not from 1 to 5.
    """
    cells = np.full((KADIS, LEVELS), np.nan)
    with open(path, newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            try:
                kind, level, opinion = int(row["id"]), int(row["level"]), float(row["mean_opinion"])
            except (KeyError, TypeError, ValueError) as error:
                raise UsageError(f"{path}, line {number}: needs id, level and mean_opinion: {error}") from None
            if not (1 <= kind <= KADIS and 1 <= level <= LEVELS and 1 <= opinion <= 5):
                raise UsageError(f"{path}, line {number}: ids are 1 to {KADIS}, levels and opinions 1 to 5")
            if not math.isnan(cells[kind - 1, level - 1]):
                raise UsageError(f"{path}, line {number}: kind {kind}, level {level} is there twice")
            cells[kind - 1, level - 1] = opinion
    if missing := int(np.isnan(cells).sum()):
        raise UsageError(f"{path}: {missing} of {KADIS * LEVELS} cells are missing")
    return cells


def opinions(cells: F64) -> Opinions:
    """The opinion of every kind at every level, `cells` [25, 5] for those of KADIS."""
    rated = [tuple(row) for row in cells.tolist()] + [()] * (len(KINDS) - KADIS)
    return [
        WITHOUT_ORIGINAL.get(kind.name, one if kind.opinions is None else kind.opinions)
        for kind, one in zip(KINDS, rated, strict=True)
    ]


class Link:
    """A monotone map from an opinion to the share of its score that a photograph keeps, 1 for an untouched one.

    Args:
        opinion: [n] of rungs.
        share: [n] their scores by the score of their photographs.
    """

    def __init__(self, opinion: F64, share: F64) -> None:
        knots = np.quantile(opinion, np.linspace(0, 1, KNOTS))
        place = np.clip(np.searchsorted(knots, opinion, side="right") - 1, 0, KNOTS - 2)
        middles = [float(opinion[place == i].mean()) for i in range(KNOTS - 1) if (place == i).any()]
        means = [float(share[place == i].mean()) for i in range(KNOTS - 1) if (place == i).any()]
        rising = isotonic_regression(np.minimum(means, 1.0)).x
        self.opinion, self.share = np.array([*middles, BEST]), np.array([*rising, 1.0])
        order = np.argsort(self.opinion)
        self.opinion, self.share = self.opinion[order], np.minimum.accumulate(self.share[order][::-1])[::-1]

    def __call__(self, opinion: float) -> float:
        """Between the knots linear; below the lowest it goes on as its first stretch does."""
        first = (self.share[1] - self.share[0]) / max(1e-9, self.opinion[1] - self.opinion[0])
        below = min(0.0, opinion - float(self.opinion[0])) * float(first)
        return max(0.1, float(np.interp(opinion, self.opinion, self.share)) + below)


def straight(opinion: float) -> float:
    """A link that is a straight line, from LEFT of the score at the worst opinion.

    Members that were fine-tuned on photographs alone keep more: the set has few ruined ones. Networks that learn
    damage anew need not be tied to that.
    """
    return min(1.0, LEFT + (1 - LEFT) * (opinion - 1) / (BEST - 1))


def link(rungs: Sequence[Rung], scores: F64, said: Opinions) -> Link:
    """The link by a model's own scores [n] of rungs, each photograph's together and itself first."""
    opinion, share = [], []
    for rung, score, own in zip(rungs, scores, of_originals(rungs, scores), strict=True):
        if len(rung.steps) == 1 and rung.steps[0].kind in TAUGHT:
            opinion.append(said[rung.steps[0].kind][rung.steps[0].level])
            share.append(score / own)
    if len(opinion) < KNOTS:
        raise UsageError(f"{len(opinion)} rungs of kinds that were rated are too few to tie opinions to the scale")
    return Link(np.array(opinion), np.array(share))


def of_originals(rungs: Sequence[Rung], values: F64) -> F64:
    """For each rung [n] the value of its photograph as it is."""
    found: F64 = values[originals(rungs)]
    return found


def originals(rungs: Sequence[Rung]) -> NDArray[np.int64]:
    """For each rung [n] the row of its photograph as it is."""
    own = {rung.photograph: row for row, rung in enumerate(rungs) if not rung.steps}
    return np.array([own[rung.photograph] for rung in rungs], np.int64)


def targets(rungs: Sequence[Rung], scores: F64, said: Opinions, kept: Callable[[float], float]) -> F64:
    """What each rung [n] should score: its photograph's own score times the share that is kept after every step."""
    shares = [math.prod(kept(said[step.kind][step.level]) for step in rung.steps) for rung in rungs]
    wanted: F64 = of_originals(rungs, scores) * np.array(shares)
    return wanted
