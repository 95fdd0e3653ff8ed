"""How a model orders damage: the bars that new heads and new members have to pass, on photographs not trained on.

All figures are of the scores of `rungs.everything`, which is every kind at every level of some photographs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.evaluation import srocc
from metaqap_fast.train.damage import KADIS, KINDS, LADDERS, named
from metaqap_fast.train.distortions import LEVELS
from metaqap_fast.train.opinion import of_originals
from metaqap_fast.train.rungs import Rung

F64 = NDArray[np.float64]
SLACK = 0.02  # of the score: what a level may be above its original
SAME = 1e-9  # levels that leave a photograph as it is score the same, and have no order


@dataclass(frozen=True, slots=True)
class Trial:
    """What `trial` measures.

    Attributes:
        people: rank correlation of the mean scores of KADIS' 125 cells with the mean opinions.
        adjacent: for each ordered kind, the share of neighbouring levels, the photograph itself among them, that are
            ordered rightly.
        above: for each kind, the share of photographs of which some level scores above the original by over SLACK.
        probes: for each change that does no harm, or a known one, the mean change of the score.
        cells: mean score [kinds, 6] of the original and each level.
    """

    people: float
    adjacent: dict[str, float]
    above: dict[str, float]
    probes: dict[str, float]
    cells: F64

    def summary(self) -> dict[str, float]:
        """The figures that bars are set on."""
        adjacent, above = list(self.adjacent.values()), list(self.above.values())
        return {
            "agreement with people over 125 cells": self.people,
            "adjacent levels in order, mean over kinds": float(np.mean(adjacent)),
            "adjacent levels in order, worst kind": min(adjacent),
            "kinds with .97 of adjacent levels in order": float(np.mean(np.array(adjacent) >= 0.97)),
            "photographs with a level above the original, mean over kinds": float(np.mean(above)),
            "photographs with a level above the original, worst kind": max(above),
            **{f"mean change, {name}": value for name, value in self.probes.items()},
        }


def trial(rungs: Sequence[Rung], scores: F64, cells: F64) -> Trial:
    """Measure scores [n] of `rungs.everything`; `cells` [25, 5] are KADID's mean opinions."""
    table = _table(rungs, scores)  # [photographs, kinds, 6]
    means = table.mean(0)
    adjacent, above = {}, {}
    for kind in LADDERS:
        ladder = table[:, kind]
        steps = np.diff(ladder, axis=1)
        moved = np.abs(steps) > SAME
        if KINDS[kind].ordered and moved.any():  # colour moves nothing where all photographs are black and white
            adjacent[KINDS[kind].name] = float((steps < 0)[moved].mean())
        above[KINDS[kind].name] = float((ladder[:, 1:].max(1) > ladder[:, 0] + SLACK).mean())
    probes = {KINDS[kind].name: float((table[:, kind, 1] - table[:, kind, 0]).mean()) for kind in _probes()}
    return Trial(people(means, cells), adjacent, above, probes, means)


def people(means: F64, cells: F64, kinds: Sequence[int] = range(KADIS)) -> float:
    """Rank correlation of mean scores [kinds, 6] with opinions [25, 5] over the cells of some of KADIS' kinds."""
    chosen = list(kinds)
    return srocc(means[chosen, 1:].ravel(), cells[chosen].ravel())


def _table(rungs: Sequence[Rung], scores: F64) -> F64:
    """[photographs, kinds, 1 + LEVELS]: the original and each level; NaN after a kind's last level."""
    places = {photograph: i for i, photograph in enumerate(dict.fromkeys(rung.photograph for rung in rungs))}
    table = np.full((len(places), len(KINDS), 1 + LEVELS), np.nan)
    own = of_originals(rungs, scores)
    for rung, score, original in zip(rungs, scores, own, strict=True):
        for step in rung.steps:
            table[places[rung.photograph], step.kind, step.level + 1] = score
            table[places[rung.photograph], step.kind, 0] = original
    return table


def _probes() -> list[int]:
    return [named(kind.name) for kind in KINDS if len(kind.levels) == 1]
