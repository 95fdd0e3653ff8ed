"""The meta-ensemble and its quality-aware loss in PyTorch, in float64 whatever comes in.

The formulas and symbols are those of `qa_ensemble_triton`. `combine` and `quality_aware_loss` are plain
differentiable code; `loss_forward` and `loss_backward` are what the operators run on a CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

CONSTANT = 1e-9  # standard deviation of the exponentials, whose maximum is 1, at which a batch is constant
HEADER = 12  # statistics before the members' means


def combine(members: Tensor, weights: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Score and spread [B], see `metaqap_fast.kernels.combine`."""
    p, w = members.double(), weights.double()
    score = p @ w + bias.double()
    square = (p - score[:, None]) ** 2 @ w.abs() / _nonzero(w.abs().sum())
    # The root of 0 has no gradient; it is given 0 here.
    spread = torch.where(square > 0, torch.where(square > 0, square, 1).sqrt(), square)
    dtype = result_dtype(members)
    return score.to(dtype), spread.to(dtype)


def quality_aware_loss(
    members: Tensor, weights: Tensor, bias: Tensor, mos: Tensor, mask: Tensor | None, l1: float, l2: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [], score [B] and the counts [2] of unusable rows, see `metaqap_fast.kernels.quality_aware_loss`."""
    # Before any arithmetic: a NaN behind a mask must not reach a gradient through 0 * NaN.
    usable = torch.isfinite(members)
    score = torch.where(usable, members, 0).double() @ weights.double() + bias.double()
    score = torch.where(usable.all(dim=1), score, torch.nan)
    valid = torch.ones_like(score, dtype=torch.bool) if mask is None else mask
    y = torch.where(valid, score, 0)
    t = torch.where(valid, mos.double(), 0)
    n = _nonzero(valid.sum())
    u, v = _shifted(y, valid)[0], _shifted(t, valid)[0]
    du = torch.where(valid, u - u.sum() / n, 0)
    dv = torch.where(valid, v - v.sum() / n, 0)
    a, e = (du * du).sum(), (dv * dv).sum()
    varies = (a > n * CONSTANT**2) & (e > n * CONSTANT**2)
    r = torch.where(varies, (du * dv).sum() / torch.where(varies, a * e, 1).sqrt(), 0)
    loss = l1 / 2 * ((y - t) ** 2).sum() / n + l2 * (1 - r)
    counts = unusable(score, mos, valid)
    loss = torch.where(valid.any(), loss, loss * 0) + torch.where(counts.sum() > 0, torch.nan, 0.0)
    dtype = result_dtype(members)
    return loss.to(dtype), score.to(dtype), counts


def loss_forward(
    members: Tensor, weights: Tensor, bias: Tensor, mos: Tensor, mask: Tensor | None, l1: float, l2: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [], score [B], both float32, and the statistics [HEADER + M], float64."""
    score = members.double() @ weights.double() + bias.double()
    valid = torch.ones_like(score, dtype=torch.bool) if mask is None else mask
    y, t = torch.where(valid, score, 0), torch.where(valid, mos.double(), 0)
    n = valid.sum().double()
    rows = n.clamp(min=1)
    (u, c), (v, d) = _shifted(y, valid), _shifted(t, valid)
    mean_u, mean_v = u.sum() / rows, v.sum() / rows
    du, dv = torch.where(valid, u - mean_u, 0), torch.where(valid, v - mean_v, 0)
    a, e = (du * du).sum(), (dv * dv).sum()
    varies = (a > rows * CONSTANT**2) & (e > rows * CONSTANT**2)
    a, e = torch.where(varies, a, 1), torch.where(varies, e, 1)
    beta = torch.where(varies, 1 / (a.sqrt() * e.sqrt()), 0)
    r = ((du * dv).sum() * beta).clamp(-1, 1)
    counts = unusable(score, mos, valid)
    spoilt = torch.where(counts.sum() > 0, torch.nan, 0.0).double()
    loss = torch.where(n > 0, l1 / 2 * ((y - t) ** 2).sum() / rows + l2 * (1 - r), 0) + spoilt
    alpha = torch.where(varies, r / a, 0) + spoilt
    header = [n, c, d, mean_u, mean_v, alpha, beta + spoilt, (y - t).sum() / rows + spoilt]
    means = torch.where(valid[:, None], members.double(), 0).sum(dim=0) / rows
    stats = torch.cat([torch.stack(header), n.new_zeros(HEADER - 2 - len(header)), counts, means])
    return loss.float(), score.float(), stats


def loss_backward(
    members: Tensor,
    weights: Tensor,
    bias: Tensor,
    mos: Tensor,
    mask: Tensor | None,
    stats: Tensor,
    grad_loss: Tensor,
    grad_score: Tensor | None,
    l1: float,
    l2: float,
    to_members: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of members [B, M] ([0] unless `to_members`), weights [M] and bias []."""
    p, w = members.double(), weights.double()
    n, c, d, mean_u, mean_v, alpha, beta, mean_d = stats[:8].unbind()
    q = stats[HEADER:]
    score = p @ w + bias.double()
    valid = torch.ones_like(score, dtype=torch.bool) if mask is None else mask
    y, t = torch.where(valid, score, 0), torch.where(valid, mos.double(), 0)
    u, v = torch.expm1(torch.where(valid, y - c, 0)), torch.expm1(torch.where(valid, t - d, 0))
    bracket = beta * (v - mean_v) - alpha * (u - mean_u)
    g = torch.where(valid, (l1 / n.clamp(min=1) * (y - t) - l2 * (1 + u) * bracket) * grad_loss, 0)
    total = grad_loss * l1 * mean_d
    if grad_score is not None:
        g = g + grad_score
        total = total + grad_score.double().sum()
    grad_members = (g[:, None] * w).to(members.dtype) if to_members else members.new_empty((0,))
    grad_weights = q * total + (torch.where((g != 0)[:, None], p - q, 0) * g[:, None]).sum(dim=0)
    return grad_members, grad_weights.to(weights.dtype), total.to(bias.dtype)


def result_dtype(members: Tensor) -> torch.dtype:
    """float32, or float64 for float64."""
    return torch.float64 if members.dtype == torch.float64 else torch.float32


def unusable(score: Tensor, mos: Tensor, valid: Tensor) -> Tensor:
    """Counts [2], float64, of unmasked rows with a score or a MOS that is not finite."""
    counts = [(valid & ~torch.isfinite(values)).sum() for values in (score, mos)]
    return torch.stack(counts).double()


def _shifted(values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """exp(values - maximum) - 1, 0 where masked, and the maximum (0 of nothing)."""
    maximum = torch.where(valid, values.detach(), -torch.inf).max()
    maximum = torch.where(torch.isfinite(maximum), maximum, 0)
    return torch.expm1(torch.where(valid, values - maximum, 0)), maximum


def _nonzero(value: Tensor) -> Tensor:
    return torch.where(value == 0, 1, value)
