"""The soft Spearman loss in PyTorch, in float64 whatever comes in.

The formulas and symbols are those of `soft_spearman_triton`. `soft_spearman` is plain differentiable code that holds
[B, B]; `forward` and `backward` are what the operators run on a CPU, in slices of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

CONSTANT = 1e-9  # standard deviation of the ranks, over n, at which a batch is constant
HEADER = 5  # statistics
SLICE = 1 << 20  # entries of [B, B] held at a time


def soft_spearman(score: Tensor, mos: Tensor, temperature: float, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Loss [] and the counts [2] of unusable rows, see `metaqap_fast.kernels.soft_spearman`."""
    valid = torch.ones_like(score, dtype=torch.bool) if mask is None else mask
    x = _ranks(torch.where(valid, score, 0).double(), valid, temperature)
    t = _ranks(torch.where(valid, mos, 0).double(), valid, temperature)
    n = valid.sum()
    a, e = (x * x).sum(), (t * t).sum()
    varies = (a > n**3 * CONSTANT**2) & (e > n**3 * CONSTANT**2)
    r = torch.where(varies, (x * t).sum() / torch.where(varies, a * e, 1).sqrt(), 0)
    counts = _unusable(score, mos, valid)
    loss = torch.where(n > 0, 1 - r, 0 * r) + torch.where(counts.sum() > 0, torch.nan, 0.0)
    return loss.to(torch.float64 if score.dtype == torch.float64 else torch.float32), counts


def forward(score: Tensor, mos: Tensor, mask: Tensor | None, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [], centred ranks [2, B], both float32, and the statistics [HEADER], float64."""
    valid = torch.ones_like(score, dtype=torch.bool) if mask is None else mask
    x = _sliced_ranks(torch.where(valid, score, 0).double(), valid, temperature)
    t = _sliced_ranks(torch.where(valid, mos, 0).double(), valid, temperature)
    n = valid.sum().double()
    a, e = (x * x).sum(), (t * t).sum()
    varies = (a > n**3 * CONSTANT**2) & (e > n**3 * CONSTANT**2)
    a, e = torch.where(varies, a, 1), torch.where(varies, e, 1)
    beta = torch.where(varies, 1 / (a.sqrt() * e.sqrt()), 0)
    r = ((x * t).sum() * beta).clamp(-1, 1)
    counts = _unusable(score, mos, valid)
    spoilt = torch.where(counts.sum() > 0, torch.nan, 0.0).double()
    loss = torch.where(n > 0, 1 - r, 0) + spoilt
    stats = torch.cat([torch.stack([n, torch.where(varies, r / a, 0) + spoilt, beta + spoilt]), counts])
    return loss.float(), torch.stack([x, t]).float(), stats


def backward(
    score: Tensor, mask: Tensor | None, ranks: Tensor, stats: Tensor, grad_loss: Tensor, temperature: float
) -> Tensor:
    """Gradient of the scores [B]."""
    valid = torch.ones_like(score, dtype=torch.bool) if mask is None else mask
    values = torch.where(valid, score, 0).double()
    g = stats[2] * ranks[1] - stats[1] * ranks[0]
    parts = []
    for part in range(0, len(values), _slice(len(values))):
        chosen = slice(part, part + _slice(len(values)))
        s = torch.sigmoid((values[chosen, None] - values) / temperature)
        weight = torch.where(valid, s * (1 - s), 0)
        parts.append(weight @ g - weight.sum(dim=1) * g[chosen])
    return torch.where(valid, torch.cat(parts) * (grad_loss / temperature), 0).to(score.dtype)


def _ranks(values: Tensor, valid: Tensor, temperature: float) -> Tensor:
    # sigmoid(z) - 1/2 = tanh(z / 2) / 2
    share = torch.tanh((values[:, None] - values) / (2 * temperature)) / 2
    return torch.where(valid[:, None] & valid, share, 0).sum(dim=1)


def _sliced_ranks(values: Tensor, valid: Tensor, temperature: float) -> Tensor:
    parts = []
    for part in range(0, len(values), _slice(len(values))):
        difference = values[part : part + _slice(len(values)), None] - values
        parts.append(torch.where(valid, torch.tanh(difference / (2 * temperature)) / 2, 0).sum(dim=1))
    return torch.where(valid, torch.cat(parts), 0)


def _slice(rows: int) -> int:
    return max(SLICE // rows, 1)


def _unusable(score: Tensor, mos: Tensor, valid: Tensor) -> Tensor:
    counts = [(valid & ~torch.isfinite(values)).sum() for values in (score, mos)]
    return torch.stack(counts).double()
