"""Fine-tuning of one member on MOS: linear probe, then the later stages and the head by gradient descent.

The probe is ridge regression on the pooled taps, solved exactly; gradient descent starts where it ends, so that
the network never follows the gradients of a random head. Stages below `frozen_stages` are not trained; what they
give is cached once, which is what makes training on a CPU possible. Batch normalisation is folded or keeps its
statistics. bf16 autocast, weights and their average in fp32.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from metaqap_fast.errors import UsageError
from metaqap_fast.evaluation import plcc, srocc
from metaqap_fast.kernels import quality_aware_loss, soft_spearman
from metaqap_fast.train.features import Cache
from metaqap_fast.train.ladders import RUNGS, order_loss
from metaqap_fast.train.loop import Group, Plan, fit, rows_of
from metaqap_fast.train.member import Features, Member, TrainedHead, rounded
from metaqap_fast.train.pooling import fast_pool
from metaqap_fast.train.recipe import Recipe
from metaqap_fast.train.ridge import ridge

log = logging.getLogger(__name__)

Rows = NDArray[np.int64]
F64 = NDArray[np.float64]
TEMPERATURE = 0.05  # of soft ranks, in units of MOS
CHUNK = 50  # images in one prediction batch


def objective(recipe: Recipe) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of predictions [B] for MOS [B], both fp32."""

    def quality_aware(l1: float, l2: float, prediction: Tensor, mos: Tensor) -> Tensor:
        one = torch.ones(1, device=prediction.device)
        return quality_aware_loss(prediction[:, None], one, 0.0, mos, l1, l2, check=False)[0]

    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "quality-aware": functools.partial(quality_aware, recipe.l1, recipe.l2),
        "mse": F.mse_loss,
        "softmax-pearson": functools.partial(quality_aware, 0.0, 1.0),
        # Ranks say nothing about the scale, which the squared error therefore keeps.
        "soft-spearman": lambda prediction, mos: (
            soft_spearman(prediction, mos, TEMPERATURE, check=False) + F.mse_loss(prediction, mos)
        ),
    }
    return losses[recipe.loss]


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


class _Trainee(nn.Module):
    """The trained stages and head, reading cached activations."""

    def __init__(self, features: Features, head: TrainedHead, stage: int) -> None:
        super().__init__()
        self.preprocess, self.network, self.head, self.stage = features.preprocess, features.network, head, stage

    def forward(self, activation: Tensor, early: Tensor) -> Tensor:
        """Activation before `stage` and pooled taps of the stages below it [N, d] -> [N] MOS."""
        x = activation if self.stage else self.preprocess(activation)
        with torch.autocast(x.device.type, torch.bfloat16):
            x = x.contiguous(memory_format=torch.channels_last)
            taps = self.network.from_stage(self.stage, x) if self.stage else self.network.taps(x)
            pooled = [fast_pool(tap) for tap in taps]
        prediction: Tensor = self.head(torch.cat([early, *pooled], 1))
        return prediction


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
    trainee = _Trainee(copy.deepcopy(features), head, recipe.frozen_stages).to(device).eval()
    trainee.to(memory_format=torch.channels_last)
    assert cache.stage == recipe.frozen_stages
    width = 3 * sum(features.network.widths()[: recipe.frozen_stages])
    loss = objective(recipe)

    def batch(chosen: Rows, flip: torch.Generator | None, source: Cache = cache) -> tuple[Tensor, Tensor]:
        activation = torch.from_numpy(source.activation[chosen]).to(device)
        activation = activation.float() if recipe.frozen_stages else activation
        if flip is not None:
            mirrored = torch.rand(len(chosen), generator=flip).to(device) < 0.5
            across = 3 if recipe.frozen_stages else 2  # of [N, C, h, w]; of [N, S, S, 3]
            activation = torch.where(mirrored[:, None, None, None], activation.flip(across), activation)
        return activation, torch.from_numpy(source.pooled[chosen, :width]).to(device)

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
    with _exact_depthwise(trainee, device):
        fit(run, _groups(trainee, recipe), step, plan, validate if len(predict) else None)
        predicted = predictions(predict)
    trained = copy.copy(features)  # with its own network
    trained._modules = {**features._modules, "network": rounded(trainee.network)}
    return Tuned(Member(trained, *head.raw()), predicted)


def _probe(cache: Cache, mos: F64, rows: Rows, recipe: Recipe, start: tuple[F64, float] | None) -> TrainedHead:
    pooled = np.asarray(cache.pooled[np.sort(rows)])
    return TrainedHead(pooled, *(start or ridge(pooled, mos[np.sort(rows)], recipe.probe_penalty)), recipe.dropout)


def _groups(trainee: _Trainee, recipe: Recipe) -> list[Group]:
    """Discriminative learning rates: the deeper the stage, the larger."""
    for parameter in trainee.network.parameters():
        parameter.requires_grad_(False)
    stages = list(trainee.network.stages)[recipe.frozen_stages :]
    groups = []
    for height, stage in enumerate(reversed(stages)):
        parameters = list(stage.requires_grad_(True).parameters())
        groups.append(Group(parameters, recipe.lr * recipe.layer_decay**height, recipe.weight_decay))
    return [*groups, Group([trainee.head.weights], recipe.head_lr), Group([trainee.head.bias], recipe.head_lr)]


@contextmanager
def _exact_depthwise(module: nn.Module, device: torch.device) -> Iterator[None]:
    """On a CPU, depthwise convolutions over 5x5 in fp32: oneDNN's bf16 weight gradient takes three times as long."""

    def forward(conv: nn.Conv2d, original: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return original(x.float()).bfloat16()

    changed = []
    for conv in module.modules() if device.type == "cpu" else ():
        if isinstance(conv, nn.Conv2d) and conv.groups > 1 and conv.kernel_size[0] >= 5:
            conv.forward = functools.partial(forward, conv, conv.forward)  # type: ignore[method-assign]
            changed.append(conv)
    try:
        yield
    finally:
        for conv in changed:
            del conv.forward
