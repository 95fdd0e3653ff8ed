"""The part of a network that is fine-tuned: its later stages and its head, their rates, and the loss.

Batch normalisation is folded or keeps its statistics. bf16 where the device multiplies in it, weights in fp32.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaqap_fast.engine.cpu import multiplies_in
from metaqap_fast.kernels import quality_aware_loss, soft_spearman
from metaqap_fast.train.loop import Group
from metaqap_fast.train.member import Features, Member, TrainedHead, rounded
from metaqap_fast.train.pooling import fast_pool
from metaqap_fast.train.recipe import Recipe

TEMPERATURE = 0.05  # of soft ranks, in units of MOS


def half_where_faster(device: torch.device) -> AbstractContextManager[None]:
    """bf16 autocast, but fp32 on a CPU that does not multiply in bf16: to imitate it takes torch ten times as long."""
    wanted = device.type != "cpu" or multiplies_in("bf16")
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)


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


class Trainee(nn.Module):
    """The trained stages and head, reading cached activations.

    `early` is the number of pooled taps of the stages below.
    """

    def __init__(self, features: Features, head: TrainedHead, stage: int) -> None:
        super().__init__()
        self.preprocess, self.network, self.head, self.stage = features.preprocess, features.network, head, stage
        self.early = 3 * sum(self.network.widths()[:stage])  # once: a pass of the whole network tells it

    def forward(self, activation: Tensor, early: Tensor) -> Tensor:
        """Activation before `stage` and pooled taps of the stages below it [N, d] -> [N] MOS."""
        x = activation if self.stage else self.preprocess(activation)
        with half_where_faster(x.device):
            x = x.contiguous(memory_format=torch.channels_last)
            taps = self.network.from_stage(self.stage, x) if self.stage else self.network.taps(x)
            pooled = [fast_pool(tap) for tap in taps]
        prediction: Tensor = self.head(torch.cat([early, *pooled], 1))
        return prediction

    def member(self, features: Features) -> Member:
        """As a bundle stores it: `features`, which are not changed, with the network as it is now, and the head."""
        trained = copy.copy(features)  # with its own network
        trained._modules = {**features._modules, "network": rounded(self.network)}
        return Member(trained, *self.head.raw())


def groups(trainee: Trainee, recipe: Recipe) -> list[Group]:
    """Discriminative learning rates: the deeper the stage, the larger."""
    for parameter in trainee.network.parameters():
        parameter.requires_grad_(False)
    stages = list(trainee.network.stages)[recipe.frozen_stages :]
    found = []
    for height, stage in enumerate(reversed(stages)):
        parameters = list(stage.requires_grad_(True).parameters())
        found.append(Group(parameters, recipe.lr * recipe.layer_decay**height, recipe.weight_decay))
    return [*found, Group([trainee.head.weights], recipe.head_lr), Group([trainee.head.bias], recipe.head_lr)]


@contextmanager
def exact_depthwise(module: nn.Module, device: torch.device) -> Iterator[None]:
    """On a CPU, depthwise convolutions over 5x5 in fp32: oneDNN's bf16 weight gradient takes three times as long."""
    if device.type != "cpu" or not multiplies_in("bf16"):
        yield
        return

    def forward(conv: nn.Conv2d, original: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return original(x.float()).bfloat16()

    changed = []
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d) and conv.groups > 1 and conv.kernel_size[0] >= 5:
            conv.forward = functools.partial(forward, conv, conv.forward)  # type: ignore[method-assign]
            changed.append(conv)
    try:
        yield
    finally:
        for conv in changed:
            del conv.forward
