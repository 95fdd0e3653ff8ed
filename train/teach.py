"""Fine-tunes a bundle's members on opinions of photographs and on damage of every kind at once.

`train run` teaches members eight kinds of damage, in three steps, by their order alone; hidden units (`train heads`)
learn the others, from what the networks happen to see. Here the networks learn to see them: their later stages and
their heads go on from where they are, on photographs with opinions and on ladders of all kinds, which are to lose what
people say that they lose. What the stages below make of every view is computed once and kept.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metaqap_fast.train import loop
from metaqap_fast.train.lessons import Lesson, Taught, rows_of, shortfall, thinned
from metaqap_fast.train.lower import Kept
from metaqap_fast.train.member import Features, TrainedHead
from metaqap_fast.train.recipe import Recipe
from metaqap_fast.train.trainee import Trainee, exact_depthwise, groups, objective

F64 = NDArray[np.float64]
Rows = NDArray[np.int64]
CHUNK = 50  # views in one prediction batch


@dataclass(frozen=True, slots=True)
class Teaching:
    """How long, and what a step has.

    Attributes:
        steps: of fine-tuning.
        batch: photographs with opinions.
        lessons: ladders and single rungs.
        levels: of a ladder, at most.
        damage: weight of what lessons ask, beside the loss of opinions.
        share: of the way from the weights as they were to those that were reached, where the member stands in the end.
            On the way it still knows photographs as before, and damage nearly as at the end (Wortsman et al., Robust
            fine-tuning of zero-shot models, 2022). Another share is the same run.
    """

    steps: int = 1200
    batch: int = 24
    lessons: int = 13
    levels: int = 3
    damage: float = 3.0
    share: float = 0.7


@dataclass(frozen=True, slots=True)
class Photographs:
    """With opinions: what the networks make of them, and MOS [n] in 0..1."""

    kept: Kept
    mos: F64


@dataclass(frozen=True, slots=True)
class Damaged:
    """What networks make of rungs, which lessons there are among them, and what these teach."""

    kept: Kept
    lessons: list[Lesson]
    taught: Taught


def teach(
    run: Path,
    place: int,
    features: Features,
    head: tuple[F64, float],
    photographs: Photographs,
    damaged: list[Damaged],
    recipe: Recipe,
    teaching: Teaching,
    seed: int,
) -> Trainee:
    """Fine-tune a member; a run that was stopped goes on.

    Args:
        run: folder of the checkpoint and the log.
        place: of the member among the networks of `Kept`.
        features: its network as it is, not changed.
        head: weights [D] and bias on pooled taps, as they are.
        photographs: to train on.
        damaged: rungs to train on.
        recipe: rates; `frozen_stages` is the stage that `Kept` was made for.
        teaching: see `Teaching`.
        seed: of everything that is drawn.
    """
    device = torch.device("cpu")
    pooled = photographs.kept.pooled(place)
    fresh = TrainedHead(pooled.astype(np.float32), *head, recipe.dropout)
    trainee = Trainee(copy.deepcopy(features), fresh, recipe.frozen_stages).eval()
    trainee.to(memory_format=torch.channels_last)
    early = {id(photographs.kept): pooled[:, : trainee.early].copy()}
    early |= {id(each.kept): each.kept.pooled(place)[:, : trainee.early].copy() for each in damaged}
    del pooled  # 25,000 columns of every view
    loss = objective(recipe)
    every = [(source, lesson) for source in range(len(damaged)) for lesson in damaged[source].lessons]

    def views(kept: Kept, rows: Rows, mirrored: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
        activation = torch.from_numpy(kept.activation(place, rows)).float()
        activation = torch.where(torch.from_numpy(mirrored)[:, None, None, None], activation.flip(3), activation)
        return activation, torch.from_numpy(early[id(kept)][rows]).float()

    def step(number: int, _: torch.Generator) -> Tensor:
        rng = np.random.default_rng((seed, number))
        trainee.head.train()
        rows = np.sort(loop.rows_of(number, len(photographs.mos), teaching.batch, seed))
        parts = [views(photographs.kept, rows, rng.random(len(rows)) < 0.5)]
        drawn = [every[i] for i in loop.rows_of(number, len(every), teaching.lessons, seed + 1)]
        asked = []
        for source, each in enumerate(damaged):
            chosen = [thinned(lesson, teaching.levels, rng) for of, lesson in drawn if of == source]
            if chosen:
                flip = np.concatenate([np.full(1 + len(lesson.rows), rng.random() < 0.5) for lesson in chosen])
                parts.append(views(each.kept, rows_of(chosen), flip))
                asked.append((chosen, each.taught))
        predicted = trainee(*(torch.cat(part) for part in zip(*parts, strict=True)))
        photographed, *of_damaged = predicted.split([len(activation) for activation, _ in parts])
        total = loss(photographed, torch.tensor(photographs.mos[rows], dtype=torch.float32))
        for (chosen, taught), said in zip(asked, of_damaged, strict=True):
            total = total + teaching.damage * len(chosen) / len(drawn) * shortfall(chosen, said, taught)
        return total

    before = [parameter.detach().clone() for parameter in trainee.parameters()]
    plan = loop.Plan(teaching.steps, seed, recipe.ema, checkpoint_every=20)
    with exact_depthwise(trainee, device):
        loop.fit(run, groups(trainee, recipe), step, plan)
    with torch.no_grad():
        for parameter, start in zip(trainee.parameters(), before, strict=True):
            parameter.copy_(start.lerp(parameter, teaching.share))
    return trainee


@torch.no_grad()
def predictions(trainee: Trainee, place: int, kept: Kept) -> F64:
    """[n] of everything that is kept."""
    trainee.eval()
    early = kept.pooled(place)[:, : trainee.early]
    said = []
    for start in range(0, len(kept), CHUNK):
        rows = np.arange(start, min(len(kept), start + CHUNK))
        activation = torch.from_numpy(kept.activation(place, rows)).float()
        said.append(trainee(activation, torch.from_numpy(early[rows]).float()).double().numpy())
    return np.concatenate(said)
