"""A distortion alone, for the tests of what each one does."""

from __future__ import annotations

import torch

from metaqap_fast.train.distortions import DISTORTIONS
from metaqap_fast.train.distortions.base import generator

SEED = 5


def apply(kind: int, level: int, x: torch.Tensor, seed: int = SEED) -> torch.Tensor:
    """The function itself, before the second stretch."""
    entry = DISTORTIONS[kind - 1]
    return entry.function(x, entry.levels[level - 1], [generator(seed + i, kind) for i in range(len(x))])
