"""Quality-aware pretraining: a network learns to judge synthetic distortions before it sees an opinion score.

Three tasks on one network: the quality target (mean rank over full-reference metrics, see `labels`), the kind of
distortion and its level. A sample is a random crop of a pristine photograph under one of 25 kinds and 5 levels, or
left as it is; it is made when it is needed from (seed, step) alone and never stored. The heads read the same pooled
taps as the members do.
"""

from __future__ import annotations

import copy
import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from metaqap_fast.errors import UsageError
from metaqap_fast.evaluation import plcc, srocc
from metaqap_fast.kernels import quality_aware_loss
from metaqap_fast.train.distortions import DISTORTIONS, LEVELS, distort
from metaqap_fast.train.features import views_of
from metaqap_fast.train.labels import fr_metrics, quality_target
from metaqap_fast.train.loop import Group, Plan, fit
from metaqap_fast.train.member import VIEW_SIZE, Features
from metaqap_fast.train.networks import Config, Preprocess, load_network
from metaqap_fast.train.pooling import fast_pool
from metaqap_fast.train.taps import Taps, fold, foldable
from metaqap_fast.train.trainee import half_where_faster

log = logging.getLogger(__name__)

Photographs = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]  # [S, S, 3] each

KINDS = len(DISTORTIONS) + 1  # 0 is the photograph as it is
HELD_OUT = 0.1  # of the photographs: what validation samples are made from
WORKERS = max(1, (os.cpu_count() or 1) // 2)  # processes that make samples; the rest is left to training
CHECKS = 256  # validation samples, and samples that features are standardised on


@dataclass(frozen=True, slots=True)
class Pretraining:
    """Settings: `crop` in pixels; `kind_weight` and `level_weight` of the two classifications in the loss.

    `fast_labels` uses the quicker half of the metrics.
    """

    steps: int = 3000
    batch: int = 16
    crop: int = 256
    lr: float = 1e-4
    head_lr: float = 1e-3
    layer_decay: float = 0.95
    weight_decay: float = 0.05
    kind_weight: float = 0.05
    level_weight: float = 0.05
    fast_labels: bool = True
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples: `views` [N, S, S, 3] uint8, `target` [N] in 0..1, `kind` [N] 0..25, `level` [N] 0..4."""

    views: Tensor
    target: Tensor
    kind: Tensor
    level: Tensor


def sample(photographs: Photographs, settings: Pretraining, step: int, count: int) -> Batch:
    """The samples of a step: a function of (settings, step) and the photographs alone."""
    rng = np.random.default_rng((settings.seed, step))
    kinds, levels = rng.integers(0, KINDS, count), rng.integers(1, LEVELS + 1, count)
    seeds = rng.integers(0, 2**31, count)
    crops = []
    for _ in range(count):
        photograph = photographs[int(rng.integers(len(photographs)))]
        y, x = (int(rng.integers(0, photograph.shape[axis] - settings.crop + 1)) for axis in (0, 1))
        crops.append(photograph[y : y + settings.crop, x : x + settings.crop])
    pristine = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255
    distorted = pristine.clone()
    changed = np.flatnonzero(kinds)
    if len(changed):
        distorted[changed] = distort(
            pristine[changed], *(values[changed].tolist() for values in (kinds, levels, seeds))
        )
    views = (distorted * 255).round().clamp(0, 255).byte()  # as it would be read from a file
    metrics = fr_metrics(pristine, views.float() / 255, fast=settings.fast_labels)
    target = quality_target(metrics, fast=settings.fast_labels)
    target[kinds == 0] = 1.0
    return Batch(views.permute(0, 2, 3, 1).contiguous(), target, torch.tensor(kinds), torch.tensor(levels - 1))


class _Steps(Dataset[Batch]):
    """Batches by step, from photographs [K, S, S, 3] uint8, which reach the workers in shared memory."""

    def __init__(self, photographs: Tensor, settings: Pretraining) -> None:
        self.photographs, self.settings = photographs, settings

    def __getitem__(self, step: int) -> Batch:
        torch.set_num_threads(1)
        return sample(self.photographs.numpy(), self.settings, step, self.settings.batch)


class Judge(nn.Module):
    """Network and heads: [N, S, S, 3] uint8 -> quality [N], kind logits [N, 26], level logits [N, 5].

    Args:
        features: the network.
        example: [n, D] features that the heads' inputs are standardised by.
    """

    mean: Tensor
    inverse: Tensor

    def __init__(self, features: Features, example: Tensor) -> None:
        super().__init__()
        self.features = features
        deviation = example.std(0)
        self.register_buffer("mean", example.mean(0))
        self.register_buffer("inverse", torch.where(deviation > 1e-4, 1 / deviation.clamp_min(1e-4), 0))
        self.heads = nn.Linear(example.shape[1], 1 + KINDS + LEVELS)
        nn.init.zeros_(self.heads.weight)
        nn.init.zeros_(self.heads.bias)

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        x = self.features.preprocess(views).contiguous(memory_format=torch.channels_last)
        with half_where_faster(x.device):
            pooled = torch.cat([fast_pool(tap) for tap in self.features.network.taps(x)], 1)
        z = (pooled - self.mean) * self.inverse / math.sqrt(pooled.shape[1])
        quality, kind, level = self.heads(z).split([1, KINDS, LEVELS], 1)
        return quality[:, 0] + 0.5, kind, level


def pretrain(
    run: Path, config: Config, photographs: Sequence[Path], settings: Pretraining, device: torch.device
) -> Path:
    """Pretrain one network and write `run/network.pt`: its weights in fp16, its heads, its settings and its metrics.

    Args:
        run: folder of the checkpoint and the log; an unfinished run in it goes on.
        config: the network, which starts from its ImageNet weights.
        photographs: undistorted photographs of at least `settings.crop` pixels a side.
        settings: see `Pretraining`.
        device: cpu or cuda.
    """
    if len(photographs) < 2:
        raise UsageError(f"at least 2 undamaged photographs are needed to pretrain on, not {len(photographs)}")
    # A network of a fixed input size sees crops of that size, one of native views sees small crops.
    settings = replace(settings, crop=config.size) if config.size < VIEW_SIZE else settings
    images = views_of(sorted(photographs))
    held = max(1, round(HELD_OUT * len(images)))
    check = sample(images[:held], settings, settings.steps + 1, CHECKS)  # a step that training does not reach
    features = Features(config, first_network(config))
    features.preprocess = Preprocess(config.mean, config.std, settings.crop, min(config.size, settings.crop))
    for parameter in features.network.parameters():
        parameter.requires_grad_(True)
    torch.manual_seed(settings.seed)
    judge = Judge(features, _example(features, check.views, device)).to(device).eval()
    judge.to(memory_format=torch.channels_last)
    stream: Iterator[Batch] | None = None

    def step(number: int, _: torch.Generator) -> Tensor:
        nonlocal stream
        if stream is None:
            todo = range(number, settings.steps)
            steps = _Steps(torch.from_numpy(np.stack(images[held:])), settings)
            # Not forked: the libraries in this process have threads, which a fork leaves behind in unknown states.
            how = "spawn"
            stream = iter(DataLoader(steps, None, sampler=todo, num_workers=WORKERS, multiprocessing_context=how))
        batch = next(stream)
        return loss(judge(batch.views.to(device)), batch, settings)

    def validate() -> dict[str, float]:
        return metrics(judge, check, device)

    plan = Plan(settings.steps, settings.seed, validate_every=max(1, settings.steps // 10))
    stages = list(features.network.stages)
    groups = [
        Group(list(stage.parameters()), settings.lr * settings.layer_decay**height, settings.weight_decay)
        for height, stage in enumerate(reversed(stages))
    ]
    result = fit(run, [*groups, Group(list(judge.heads.parameters()), settings.head_lr)], step, plan, validate)
    document = {
        "name": config.name,
        "settings": asdict(settings),
        "photographs": len(images) - held,
        "metrics": result,
        "network": {key: value.half().cpu() for key, value in features.network.state_dict().items()},
        "heads": {key: value.half().cpu() for key, value in judge.heads.state_dict().items()},
        "mean": judge.mean.cpu(),
        "inverse": judge.inverse.cpu(),
    }
    partial = run / "network.partial"
    torch.save(document, partial)
    return partial.replace(run / "network.pt")


def first_network(config: Config, pretrained: Path | None = None) -> Taps:
    """The network that training starts from: ImageNet weights, or what `pretrain` left in a run's folder.

    Batch normalisations of MobileNet types are folded, those of others keep their statistics.

    Raises:
        UsageError: no pretrained network there, or one of another configuration.
    """
    network = load_network(config, pretrained=pretrained is None)
    network = fold(network) if foldable(network) else network
    if pretrained is not None:
        path = pretrained / "network.pt"
        if not path.exists():
            raise UsageError(f"{path} does not exist: run `metaqap-fast train pretrain` first")
        document: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if document["name"] != config.name:
            raise UsageError(f"{path} is of {document['name']}, not of {config.name}")
        network.load_state_dict({key: value.float() for key, value in document["network"].items()})
    return network.eval()


def loss(judged: tuple[Tensor, Tensor, Tensor], batch: Batch, settings: Pretraining) -> Tensor:
    """Quality-aware loss of the target, and cross entropies; kind and level of what cannot be seen do not count."""
    quality, kind, level = judged
    device = quality.device
    target, visible = batch.target.to(device), ((batch.target < 1) & (batch.kind > 0)).to(device)
    one = torch.ones(1, device=device)
    total, _ = quality_aware_loss(quality[:, None], one, 0.0, target, check=False)
    seen = visible | (batch.kind == 0).to(device)
    kinds = F.cross_entropy(kind, batch.kind.to(device), reduction="none")
    levels = F.cross_entropy(level, batch.level.to(device), reduction="none")
    total = total + settings.kind_weight * (kinds * seen).sum() / seen.sum().clamp_min(1)
    return total + settings.level_weight * (levels * visible).sum() / visible.sum().clamp_min(1)


@torch.no_grad()
def metrics(judge: Judge, batch: Batch, device: torch.device) -> dict[str, float]:
    """SROCC and PLCC with the target; the share of visible distortions whose kind, or level, is named rightly."""
    judged = [judge(part.to(device)) for part in torch.split(batch.views, 16)]
    quality, kind, level = (torch.cat(parts).cpu() for parts in zip(*judged, strict=True))
    visible = (batch.target < 1) & (batch.kind > 0)
    q, t = quality.double().numpy(), batch.target.double().numpy()
    return {
        "srocc": srocc(q, t),
        "plcc": plcc(q, t),
        "kind": float((kind.argmax(1) == batch.kind)[visible].float().mean()),
        "level": float((level.argmax(1) == batch.level)[visible].float().mean()),
    }


@torch.no_grad()
def _example(features: Features, views: Tensor, device: torch.device) -> Tensor:
    features = copy.deepcopy(features).to(device)
    return torch.cat([features(part.to(device)).float().cpu() for part in torch.split(views, 16)])
