"""The mathematics of `qa_ensemble` in torch: the reference that is differentiated, and the CPU's implementation.

`combine` and `quality_aware_loss` are ordinary differentiable torch code in the precision of their inputs (fp32 for
half precision); autograd does the rest. `loss_forward` and `loss_backward` are what the operator runs on a CPU: fp64
throughout and the gradient in closed form, because an operator cannot call autograd from inside.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metaqap_fast.kernels.stats import STATS, ZERO_STD


def combine(members: Tensor, weights: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Score = members @ weights + bias and spread = sqrt(sum |w| (p - score)^2 / sum |w|), both [B]."""
    dtype = torch.float64 if members.dtype == torch.float64 else torch.float32
    p, w, b = members.to(dtype), weights.to(dtype), bias.to(dtype)
    score = (p * w).sum(dim=1) + b
    total = w.abs().sum()
    square = ((p - score[:, None]) ** 2 * w.abs()).sum(dim=1) / torch.where(total > 0, total, 1.0)
    # sqrt has no derivative at 0; where all members agree the spread's gradient is defined as 0.
    # Written so that NaN is not "agreement": a NaN prediction has a NaN spread.
    zero = square == 0
    return score, torch.where(zero, 0.0, torch.sqrt(torch.where(zero, 1.0, square)))


def quality_aware_loss(
    members: Tensor, weights: Tensor, bias: Tensor, mos: Tensor, l1: float, l2: float, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Loss (0-dimensional) and score [B], see `metaqap_fast.kernels.quality_aware_loss`."""
    dtype = torch.float64 if members.dtype == torch.float64 else torch.float32
    p, w, b, t = members.to(dtype), weights.to(dtype), bias.to(dtype), mos.to(dtype)
    valid = torch.ones_like(t, dtype=torch.bool) if mask is None else mask
    # NaN * 0 is NaN: what a masked row holds is taken out before anything is multiplied.
    hole = ~valid & ~torch.isfinite(p).all(dim=1)
    y = (torch.where(hole[:, None], 0.0, p) * w).sum(dim=1) + b
    count = valid.sum().clamp(min=1)
    miss = torch.where(valid, y - torch.where(valid, t, 0.0), 0.0)
    x, y_flat = _centred_exp(y, valid, count)
    z, t_flat = _centred_exp(t, valid, count)
    defined = ~(y_flat | t_flat)
    norm = torch.sqrt(torch.where(defined, (x * x).sum() * (z * z).sum(), 1.0))
    r = torch.where(defined, (x * z).sum() / norm, 0.0)
    loss = 0.5 * l1 * (miss * miss).sum() / count + l2 * (1.0 - r)
    return torch.where(valid.any(), loss, 0.0), torch.where(hole, torch.nan, y)


def _centred_exp(y: Tensor, valid: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """exp(y) / mean(exp(y)) - 1 over the valid rows, 0 in the others, and whether that is all zero."""
    top = torch.where(valid, y, -torch.inf).amax().detach()
    # NaN stays: top is only replaced where no row is valid.
    top = torch.where(torch.isneginf(top), 0.0, top)
    e = torch.expm1(torch.where(valid, y - top, 0.0))
    mean = e.sum() / count
    x = torch.where(valid, (e - mean) / (1.0 + mean), 0.0)
    return x, _is_constant((x * x).sum() / count, top + torch.log1p(mean)).detach()


def _is_constant(variance: Tensor, level: Tensor) -> Tensor:
    """The rule of `stats.ZERO_STD`."""
    return torch.sqrt(variance) <= ZERO_STD * (1.0 + level.abs())


def spread_backward(
    grad_score: Tensor, grad_spread: Tensor | None, members: Tensor, weights: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of members, weights and intercept from those of score and spread, in closed form.

    With W = sum |w|, s the spread and e = sum_m |w_m| (p_m - y) / (W s):
    ds/dp_m = |w_m| (p_m - y) / (W s) - e w_m, ds/dw_m = sign(w_m) ((p_m - y)^2 - s^2) / (2 W s) - e p_m, ds/db = -e.
    """
    dtype = torch.float64 if members.dtype == torch.float64 else torch.float32
    p, w = members.to(dtype), weights.to(dtype)
    g = grad_score.to(dtype)
    score, spread = combine(p, w, bias.to(dtype))
    if grad_spread is None:
        return g[:, None] * w, (g[:, None] * p).sum(dim=0), g.sum()
    total = w.abs().sum()
    flat = (spread == 0) | (total == 0)
    h = torch.where(flat, 0.0, grad_spread.to(dtype) / torch.where(flat, 1.0, total * spread))
    apart = p - score[:, None]
    g = g - h * (apart * w.abs()).sum(dim=1)
    grad_members = g[:, None] * w + h[:, None] * apart * w.abs()
    own = 0.5 * h[:, None] * w.sign() * (apart**2 - spread[:, None] ** 2)
    return grad_members, (g[:, None] * p + own).sum(dim=0), g.sum()


def loss_forward(
    members: Tensor, weights: Tensor, bias: Tensor, mos: Tensor, mask: Tensor | None, l1: float, l2: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and score [B] in fp32, stats [STATS + M] in fp64: what the kernels give, computed in fp64."""
    y, t, valid = _rows(members, weights, bias, mos, mask)
    usable = torch.isfinite(y) & torch.isfinite(t)
    bad = (valid & ~usable).sum().double()
    valid = valid & usable
    count = valid.sum()
    n = count.clamp(min=1).double()
    c, x, y_flat = _standardised(y, valid, n)
    d, z, t_flat = _standardised(t, valid, n)
    miss = torch.where(valid, y - t, 0.0)
    sxx, szz, sxz = (x * x).sum(), (z * z).sum(), (x * z).sum()
    defined = (count > 0) & ~y_flat & ~t_flat
    norm = torch.where(defined, torch.sqrt(sxx) * torch.sqrt(szz), 1.0)
    r = torch.where(defined, sxz / norm, 0.0)
    loss = 0.5 * l1 * (miss * miss).sum() / n + l2 * (1.0 - r)
    loss = torch.where(bad > 0, torch.nan, torch.where(count > 0, loss, 0.0))
    poison = torch.where(bad > 0, torch.nan, 1.0).double()
    scale = torch.where(defined, l2 / norm, 0.0) * poison
    slope = torch.where(defined, sxz / torch.where(defined, sxx, 1.0), 0.0)
    first = torch.stack([bad, c, d, torch.where(count > 0, l1 / n, 0.0) * poison, scale * slope, -scale, 0.0 * scale])
    columns = torch.where(valid[:, None], members.double(), 0.0).sum(dim=0) / n
    return loss.float(), y.float(), torch.cat([first, columns])


def loss_backward(
    grad_loss: Tensor | None, grad_score: Tensor | None, members: Tensor, weights: Tensor, bias: Tensor,
    mos: Tensor, mask: Tensor | None, stats: Tensor, need_members: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradient of members (empty unless needed); of weights and intercept together, [M + 1] in fp32."""
    y, t, valid = _rows(members, weights, bias, mos, mask)
    usable = torch.isfinite(y)
    g = torch.zeros_like(y)
    if grad_loss is not None:
        lost = valid & ~usable
        valid = valid & usable
        _, c, d, c_miss, cx, cz, cq = stats[:STATS]
        x = torch.expm1(torch.where(valid, y - c, 0.0))
        z = torch.expm1(torch.where(valid, t - d, 0.0))
        g = c_miss * torch.where(valid, y - t, 0.0) + (x + 1.0) * (cx * x + cz * z + cq * (x - z))
        g = torch.where(valid, g * grad_loss.double(), torch.where(lost, torch.nan, 0.0))
    if grad_score is not None:
        g = g + torch.where(usable, grad_score.double(), 0.0)
    p = torch.where(usable[:, None], members.double(), 0.0)
    sums = torch.cat([(g[:, None] * p).sum(dim=0), g.sum()[None]]).float()
    if not need_members:
        return members.new_empty((0, members.shape[1])), sums
    return (g[:, None] * weights.double()).to(members.dtype), sums


def _rows(
    members: Tensor, weights: Tensor, bias: Tensor, mos: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores and MOS [B] in fp64, and which rows count."""
    y = (members.double() * weights.double()).sum(dim=1) + bias.double()
    return y, mos.double(), torch.ones_like(mos, dtype=torch.bool) if mask is None else mask


def _standardised(y: Tensor, valid: Tensor, n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log mean e^y, e^y / mean(e^y) - 1 (0 in rows that do not count), and whether that is constant."""
    top = torch.where(valid, y, -torch.inf).amax()
    top = torch.where(torch.isneginf(top), 0.0, top)
    mean = torch.expm1(torch.where(valid, y - top, 0.0)).sum() / n
    level = top + torch.log1p(mean)
    x = torch.where(valid, torch.expm1(y - level), 0.0)
    return level, x, _is_constant((x * x).sum() / n, level)
