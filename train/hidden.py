"""Fits the hidden layer beside the members: the order of damage, the opinions of photographs, and the reasons.

The layer corrects the score s of a view to s + c, see `metaqap_fast.model.readout`. What is asked of c:

    s + c = (s + c of the original) - what people say that the damage costs        on rungs
    s + c = opinion, and c small                                                   on labelled photographs
    a milder level scores above the next, and none above the original              on ladders

One small layer fits noise, and the mean of several that are fitted from different starts does less so. For the score
they all ship, side by side. For the reasons, which need larger ones, one is taught what they say in the mean: of as
many inputs as are wanted, for they can be asked about any.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from metaqap_fast.train.damage import KINDS, LADDERS, PROBES
from metaqap_fast.train.distortions import LEVELS
from metaqap_fast.train.opinion import originals
from metaqap_fast.train.rungs import Rung

F64 = NDArray[np.float64]
Rows = NDArray[np.int64]

RATE, DECAY = 2e-3, 1e-3
CONTENTS, PHOTOGRAPHS = 160, 1200  # of a step: photographs with all their rungs, and labelled ones
MARGIN = 0.01  # of the score, that a milder level is to be above the next
PROBE = 2.0  # weight of all rungs that change nothing, or a known thing, beside that of all others: however many
ABOVE = 3.0  # weight of a rung that scores above its original
FOR_REASONS = 16  # units of a layer that is fitted for them


@dataclass(frozen=True, slots=True)
class Lessons:
    """Rungs [n], each photograph's together and itself first.

    Attributes:
        x: [n, K] coordinates of what members see.
        score: [n] as it is.
        kept: [n] share of the original's score that is to be left.
        severity: [n, R] of reasons, NaN where it is not asked.
        original: [n] the row of the photograph as it is.
        milder: [n] the row of the level before, or of the original; -1 for what has no order.
        cell: [n] kind and level in one number, -1 for originals and for several kinds at once.
        probe: [n] changes that do no harm, or a known one.
        contents: the rows of each photograph.
    """

    x: Tensor
    score: Tensor
    kept: Tensor
    severity: Tensor
    original: Rows
    milder: Rows
    cell: Rows
    probe: NDArray[np.bool_]
    contents: list[Rows]

    def beside(self, others: Lessons) -> Lessons:
        """Both."""
        count = len(self.x)
        tensors = {
            name: torch.cat([getattr(self, name), getattr(others, name)]) for name in ("x", "score", "kept", "severity")
        }
        return Lessons(
            **tensors,
            original=np.concatenate([self.original, others.original + count]),
            milder=np.concatenate([self.milder, np.where(others.milder < 0, -1, others.milder + count)]),
            cell=np.concatenate([self.cell, others.cell]),
            probe=np.concatenate([self.probe, others.probe]),
            contents=[*self.contents, *(rows + count for rows in others.contents)],
        )

    def times(self, count: int) -> Lessons:
        """The same, with each photograph in a step so many times as often."""
        return replace(self, contents=self.contents * count)


@dataclass(frozen=True, slots=True)
class Photographs:
    """Labelled ones [m]: coordinates [m, K], score as it is, opinion, and which of them are good."""

    x: Tensor
    score: Tensor
    mos: Tensor
    good: Tensor

    def beside(self, others: Photographs) -> Photographs:
        """Both."""
        return Photographs(*(torch.cat([getattr(each, name) for each in (self, others)]) for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Weights:
    """How a layer is fitted. `reasons` 0: for the score alone; `score` 0: for the reasons alone.

    Attributes:
        score: of everything that is asked of the score.
        reasons: of severities.
        mos: of labelled photographs' opinions.
        still: of their scores as they are.
        cells: of the mean over photographs at each level of each kind, beside each alone.
        dropout: share of the coordinates that is left out at random.
        steps: of fitting, each on CONTENTS photographs with their rungs and PHOTOGRAPHS labelled ones.
    """

    score: float = 1.0
    reasons: float = 0.0
    mos: float = 10.0
    still: float = 10.0
    cells: float = 1.0
    dropout: float = 0.2
    steps: int = 400


class Layer(nn.Module):
    """[N, K] -> [N, 1 + R], through some units."""

    def __init__(self, inputs: int, units: int, outputs: int) -> None:
        super().__init__()
        self.units, self.last = nn.Linear(inputs, units), nn.Linear(units, outputs)
        nn.init.normal_(self.last.weight, std=0.05 / math.sqrt(units))
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 1 + R]: the change of the score, and severities."""
        given: Tensor = self.last(functional.relu(self.units(x)))
        return given

    def reasons(self, x: Tensor) -> Tensor:
        """[N, R]: the severities alone."""
        given: Tensor = self(x)
        return given[:, 1:]


def lessons(rungs: Sequence[Rung], x: Tensor, score: F64, kept: F64, severity: F64) -> Lessons:
    """What rungs [n] teach: see `Lessons` for the arguments."""
    original, milder, cell = originals(rungs), np.full(len(rungs), -1), np.full(len(rungs), -1)
    last: dict[tuple[int, int], int] = {}
    contents: dict[int, list[int]] = {}
    for row, rung in enumerate(rungs):
        contents.setdefault(rung.photograph, []).append(row)
        if len(rung.steps) == 1:
            kind, level = rung.steps[0]
            cell[row] = kind * LEVELS + level
            if KINDS[kind].ordered and kind in LADDERS:
                milder[row] = last.get((rung.photograph, kind), original[row])
                last[rung.photograph, kind] = row
    now, left, severe = (torch.tensor(values, dtype=torch.float32) for values in (score, kept, severity))
    places = [np.array(rows) for rows in contents.values()]
    return Lessons(x, now, left, severe, original, milder, cell, np.isin(cell // LEVELS, list(PROBES)), places)


def without(whole: Lessons, rungs: Sequence[Rung], kinds: set[int]) -> Lessons:
    """The same lessons, less the rungs on which one of some kinds has a part."""
    out = {row for row, rung in enumerate(rungs) if any(step.kind in kinds for step in rung.steps)}
    contents = [np.array([row for row in rows if row not in out]) for rows in whole.contents]
    return replace(whole, contents=contents)


def fit(taught: Lessons, photographs: Photographs, weights: Weights, units: int, seed: int) -> Layer:
    """One layer, from one start."""
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = Layer(taught.x.shape[1], units, 1 + taught.severity.shape[1])
        drop = dropout(weights.dropout, taught.x.shape[1])
        learn = learning(layer, weights.steps)
        for _ in range(weights.steps):
            chosen = rng.permutation(len(taught.contents))[:CONTENTS]
            rows = np.concatenate([taught.contents[place] for place in chosen])
            labelled = torch.from_numpy(rng.permutation(len(photographs.x))[:PHOTOGRAPHS])
            given = layer(drop(torch.cat([taught.x[rows], photographs.x[labelled]])))
            on_rungs, on_labelled = given[: len(rows)], given[len(rows) :]
            loss = torch.zeros(())
            if weights.score:
                asked = _order(taught, rows, on_rungs[:, 0], weights)
                asked = asked + _opinions(photographs, labelled, on_labelled[:, 0], weights)
                loss = loss + weights.score * asked
            if weights.reasons:
                good = on_labelled[photographs.good[labelled]]
                loss = loss + weights.reasons * _severities(taught.severity[rows], on_rungs[:, 1:], good[:, 1:])
            learn(loss)
    return layer.eval()


def _order(taught: Lessons, rows: Rows, change: Tensor, weights: Weights) -> Tensor:
    place = np.full(len(taught.x), -1)
    place[rows] = np.arange(len(rows))
    original = torch.from_numpy(place[taught.original[rows]])
    score = taught.score[rows] + change
    moved = score - score[original]
    off = moved - taught.score[rows][original] * (taught.kept[rows] - 1)
    harmless = torch.from_numpy(taught.probe[rows])
    harmed = torch.from_numpy(taught.original[rows] != rows) & ~harmless
    total = _mean(off[harmed].square()) + ABOVE * _mean(functional.relu(moved[harmed]).square())
    total = total + PROBE * _mean(off[harmless].square())
    total = total + 0.3 * weights.still * change[np.unique(place[taught.original[rows]])].square().mean()
    milder = np.where(taught.milder[rows] >= 0, place[taught.milder[rows]], -1)
    ordered = torch.from_numpy(np.flatnonzero(milder >= 0))
    if len(ordered):
        above = score[torch.from_numpy(milder[milder >= 0])] - score[ordered]
        total = total + functional.relu(MARGIN - above).mean()
    cells, which = np.unique(taught.cell[rows], return_inverse=True)
    means = torch.zeros(len(cells)).index_add(0, torch.from_numpy(which), off)
    means = means / torch.from_numpy(np.bincount(which)).float()
    return total + weights.cells * means[torch.from_numpy(cells >= 0)].square().sum() / len(cells)


def _mean(values: Tensor) -> Tensor:
    """0 of none."""
    return values.sum() / max(1, len(values))


def _opinions(photographs: Photographs, rows: Tensor, change: Tensor, weights: Weights) -> Tensor:
    off = photographs.score[rows] + change - photographs.mos[rows]
    return weights.mos * off.square().mean() + weights.still * change.square().mean()


def _severities(severity: Tensor, given: Tensor, good: Tensor) -> Tensor:
    asked = ~severity.isnan()
    off = torch.where(asked, given - severity.nan_to_num(), 0.0)
    return off.square().sum() / asked.sum().clamp_min(1) + good.square().mean()


def distil(teacher: Callable[[Tensor], Tensor], x: Tensor, units: int, seed: int, steps: int) -> Layer:
    """One layer of some units that says what a teacher says, of coordinates x [n, K] of which some are left out."""
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with torch.no_grad():
            said = teacher(x)
            layer, drop = Layer(x.shape[1], units, said.shape[1]), dropout(0.2, x.shape[1])
            spread = said.square().mean(0).clamp_min(1e-6).rsqrt()  # a column counts like another
        learn = learning(layer, steps)
        for _ in range(steps):
            seen = drop(x[torch.from_numpy(rng.permutation(len(x))[: 2 * PHOTOGRAPHS])])
            with torch.no_grad():
                wanted = teacher(seen)
            learn(((layer(seen) - wanted) * spread).square().mean())
    return layer.eval()


def mean_of(said: Sequence[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    """What some layers say, in the mean."""
    return lambda x: torch.stack([each(x) for each in said]).mean(0)


@torch.no_grad()
def joined_layers(scores: Sequence[Layer], reasons: Layer | None = None) -> Layer:
    """One layer [N, 1 + R] with the units of all: the mean of what some layers say of the score (none: it stays), and
    the reasons of one that says nothing else [N, R]."""
    parts = [*scores, *([] if reasons is None else [reasons])]
    units = torch.cat([part.units.weight for part in parts])
    layer = Layer(units.shape[1], len(units), 1 if reasons is None else 1 + reasons.last.out_features)
    layer.units.weight.copy_(units)
    layer.units.bias.copy_(torch.cat([part.units.bias for part in parts]))
    layer.last.weight.zero_()
    layer.last.bias.zero_()
    if reasons is not None:
        own = reasons.units.out_features
        layer.last.weight[1:, -own:], layer.last.bias[1:] = reasons.last.weight, reasons.last.bias
    place = 0
    for part in scores:
        count = part.units.out_features
        layer.last.weight[0, place : place + count] = part.last.weight[0] / len(scores)
        layer.last.bias[0] += part.last.bias[0] / len(scores)
        place += count
    return layer.eval()


def learning(layer: Layer, steps: int) -> Callable[[Tensor], None]:
    """A step of so many, to be called with its loss."""
    optimizer = torch.optim.AdamW(layer.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)

    def learn(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()

    return learn


def dropout(share: float, inputs: int) -> Callable[[Tensor], Tensor]:
    """Dropout by rows of masks that are drawn once: to draw them anew would cost more than all else."""
    masks = (torch.rand(4096, inputs) >= share).float() / (1 - share)
    return lambda x: x * masks[torch.randint(0, len(masks), (len(x),))]
