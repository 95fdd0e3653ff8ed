"""Fine-tuning of one member on MOS: linear probe, then the later stages and the head by gradient descent.

The probe is ridge regression on the pooled taps, solved exactly; gradient descent starts where it ends, so that
the network never follows the gradients of a random head. Stages below `frozen_stages` are not trained; what they
give is cached once, which is what makes training on a CPU possible. Batch normalisation is folded or keeps its
statistics. bf16 where the device multiplies in it, weights and their average in fp32.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metaqap_fast.errors import UsageError
from metaqap_fast.evaluation import plcc, srocc
from metaqap_fast.train.features import Cache
from metaqap_fast.train.ladders import RUNGS, order_loss
from metaqap_fast.train.loop import Plan, fit, rows_of
from metaqap_fast.train.member import Features, Member, TrainedHead
from metaqap_fast.train.recipe import Recipe
from metaqap_fast.train.ridge import ridge
from metaqap_fast.train.trainee import Trainee, exact_depthwise, groups, objective

log = logging.getLogger(__name__)

Rows = NDArray[np.int64]
F64 = NDArray[np.float64]
CHUNK = 50  # images in one prediction batch


@dataclass(frozen=True, slots=True)
class Tuned:
    """A fine-tuned member: [N, S, S, 3] uint8 views -> [N, 1] MOS, rounded as a bundle stores it."""

    member: Member
    predictions: F64  # of the rows that were asked for


@dataclass(frozen=True, slots=True)
class Order:
    """Ladders of the training rows `rows` [K], ascending, and what the network sees in their K * RUNGS views."""

    rows: Rows
    cache: Cache


def finetune(
    run: Path,
    features: Features,
    cache: Cache,
    order: Order | None,
    mos: F64,
    rows: Rows,
    recipe: Recipe,
    device: torch.device,
    seed: int,
    predict: Rows,
    start: tuple[F64, float] | None = None,
) -> Tuned:
    """Train on `rows` of the cache, predict the rows `predict`.

    Args:
        run: folder of the checkpoint and the log; an unfinished run in it goes on.
        features: the network with its first weights, not changed.
        cache: its pooled taps and the activation before stage `recipe.frozen_stages`.
        order: ladders, of which those of `rows` are trained on; None for none.
        mos: [n] MOS of all rows, 0..1.
        rows: training rows; no other row's MOS is read while training.
        recipe: see `Recipe`.
        device: cpu or cuda.
        seed: of batches, flips and dropout.
        predict: rows to predict afterwards. Their SROCC and PLCC are also shown while training, and decide nothing.
        start: weights [D] and bias of a head on the raw pooled taps to start from; the linear probe's if not given.

    Raises:
        UsageError: nothing would be trained.
        MetaqapError: as `fit`.
    """
    if recipe.frozen_stages >= len(features.network.stages):
        raise UsageError(f"{run}: all {recipe.frozen_stages} stages are frozen, nothing is left to train")
    head = _probe(cache, mos, rows, recipe, start)
    trainee = Trainee(copy.deepcopy(features), head, recipe.frozen_stages).to(device).eval()
    trainee.to(memory_format=torch.channels_last)
    assert cache.stage == recipe.frozen_stages
    loss = objective(recipe)

    def batch(chosen: Rows, flip: torch.Generator | None, source: Cache = cache) -> tuple[Tensor, Tensor]:
        activation = torch.from_numpy(source.activation[chosen]).to(device)
        activation = activation.float() if recipe.frozen_stages else activation
        if flip is not None:
            mirrored = torch.rand(len(chosen), generator=flip).to(device) < 0.5
            across = 3 if recipe.frozen_stages else 2  # of [N, C, h, w]; of [N, S, S, 3]
            activation = torch.where(mirrored[:, None, None, None], activation.flip(across), activation)
        return activation, torch.from_numpy(source.pooled[chosen, : trainee.early]).to(device)

    climbed = np.flatnonzero(np.isin(order.rows, rows)) if order else np.empty(0, np.int64)

    def step(number: int, generator: torch.Generator) -> Tensor:
        chosen = np.sort(rows[rows_of(number, len(rows), recipe.batch, seed)])
        flip = generator if recipe.flip else None
        head.train()
        target = torch.tensor(mos[chosen], dtype=torch.float32, device=device)
        if order is None or not len(climbed):
            return loss(trainee(*batch(chosen, flip)), target)
        ladder = np.sort(climbed[rows_of(number, len(climbed), recipe.order_batch, seed)])
        rungs = (RUNGS * ladder[:, None] + np.arange(RUNGS)).ravel()
        parts = zip(batch(chosen, flip), batch(rungs, flip, order.cache), strict=True)
        prediction = trainee(*(torch.cat(part) for part in parts))  # in one pass: small batches are slow
        total = loss(prediction[: len(chosen)], target)
        return total + recipe.order_weight * order_loss(prediction[len(chosen) :])

    @torch.no_grad()
    def predictions(of: Rows) -> F64:
        trainee.eval()
        parts = [trainee(*batch(of[i : i + CHUNK], None)).double().cpu().numpy() for i in range(0, len(of), CHUNK)]
        return np.concatenate(parts) if parts else np.empty(0)

    def validate() -> dict[str, float]:
        predicted = predictions(predict)
        return {"srocc": srocc(predicted, mos[predict]), "plcc": plcc(predicted, mos[predict])}

    predict = np.sort(predict)
    per_epoch = max(1, len(rows) // recipe.batch)
    steps = max(1, round(recipe.epochs * per_epoch))
    plan = Plan(steps, seed, recipe.ema, validate_every=per_epoch if len(predict) else 0)
    with exact_depthwise(trainee, device):
        fit(run, groups(trainee, recipe), step, plan, validate if len(predict) else None)
        predicted = predictions(predict)
    return Tuned(trainee.member(features), predicted)


def _probe(cache: Cache, mos: F64, rows: Rows, recipe: Recipe, start: tuple[F64, float] | None) -> TrainedHead:
    pooled = np.asarray(cache.pooled[np.sort(rows)])
    return TrainedHead(pooled, *(start or ridge(pooled, mos[np.sort(rows)], recipe.probe_penalty)), recipe.dropout)
