"""The mathematics of `soft_spearman` in torch: the reference that is differentiated, and the CPU's implementation.

`soft_spearman` is plain differentiable torch and holds B x B. `forward` and `backward` are what the operator runs on a
CPU: fp64, in strips of rows, with the gradient in closed form (derived in `soft_spearman_triton`).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

STRIP = 1 << 18
"""Pairs held at once on a CPU, 2 MB in fp64: a strip that stays in its cache."""


def soft_spearman(score: Tensor, mos: Tensor, temperature: float, mask: Tensor | None) -> Tensor:
    """Loss (0-dimensional), see `metaqap_fast.kernels.soft_spearman`."""
    dtype = torch.float64 if score.dtype == torch.float64 else torch.float32
    valid = torch.ones_like(score, dtype=torch.bool) if mask is None else mask
    a = _centred_ranks(torch.where(valid, score, 0.0).to(dtype), valid, temperature)
    c = _centred_ranks(torch.where(valid, mos, 0.0).to(dtype), valid, temperature)
    saa, scc = (a * a).sum(), (c * c).sum()
    # With two rows the ranks are opposite numbers; what autograd gives then is 0 up to rounding.
    defined = ~((saa == 0) | (scc == 0))
    norm = torch.sqrt(torch.where(defined, saa, 1.0)) * torch.sqrt(torch.where(defined, scc, 1.0))
    r = torch.where(defined, (a * c).sum() / norm, 0.0)
    return torch.where(valid.any(), 1.0 - r, 0.0)


def _centred_ranks(x: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """Soft rank minus n/2 of the valid rows, 0 in the others."""
    pair = valid[:, None] & valid[None, :]
    return 0.5 * torch.where(pair, torch.tanh((x[:, None] - x[None, :]) * (0.5 / temperature)), 0.0).sum(dim=1)


def forward(score: Tensor, mos: Tensor, temperature: float, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and ranks [3, B] in fp32, stats [SPEARMAN_STATS] in fp64: what the kernels give, computed in fp64."""
    valid = torch.ones_like(score, dtype=torch.bool) if mask is None else mask
    x = torch.where(valid, score.double(), 0.0)
    t = torch.where(valid, mos.double(), 0.0)
    bad = (~torch.isfinite(x) | ~torch.isfinite(t)).sum().double()
    a, c = _strip_ranks(x, valid, temperature), _strip_ranks(t, valid, temperature)
    n = valid.sum()
    saa, scc, sac = (a * a).sum(), (c * c).sum(), (a * c).sum()
    defined = (saa > 0) & (scc > 0)
    norm = torch.where(defined, torch.sqrt(saa) * torch.sqrt(scc), 1.0)
    r = torch.where(defined, sac / norm, 0.0)
    pair = defined & (n == 2)
    r = torch.where(pair, r.sign(), r)
    scale = torch.where(defined & ~pair, 1.0 / norm, 0.0)
    slope = torch.where(defined, sac / torch.where(defined, saa, 1.0), 0.0)
    poison = torch.where(bad > 0, torch.nan, 1.0).double()
    loss = torch.where(n > 0, 1.0 - r, 0.0) * poison
    none = torch.zeros_like(bad)
    stats = torch.stack([bad, none, none, -scale * poison])
    # In place of a - c, which the kernels keep: what a does not explain of c, which is dL/da but for its scale. It is
    # formed in fp64, before the ranks are rounded.
    return loss.float(), torch.stack([a, c, c - slope * a]).float(), stats


def backward(
    grad_loss: Tensor, score: Tensor, temperature: float, mask: Tensor | None, ranks: Tensor, stats: Tensor
) -> Tensor:
    """Gradient of the score [B], in its dtype."""
    valid = torch.ones_like(score, dtype=torch.bool) if mask is None else mask
    x = torch.where(valid, score.double(), 0.0)
    g = (stats[1:, None] * ranks.double()).sum(dim=0)
    out = torch.empty_like(x)
    for rows in _strips(x):
        d = torch.exp(-(x[rows, None] - x[None, :]).abs() / temperature)
        pull = d / (1.0 + d) ** 2 * (g[rows, None] - g[None, :])
        out[rows] = torch.where(valid[None, :], pull, 0.0).sum(dim=1)
    return torch.where(valid, out * (grad_loss.double() / temperature), 0.0).to(score.dtype)


def _strip_ranks(x: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """`_centred_ranks` without B x B."""
    out = torch.empty_like(x)
    for rows in _strips(x):
        u = torch.tanh((x[rows, None] - x[None, :]) * (0.5 / temperature))
        out[rows] = 0.5 * torch.where(valid[None, :], u, 0.0).sum(dim=1)
    return torch.where(valid, out, 0.0)


def _strips(x: Tensor) -> Iterator[slice]:
    """Row ranges of at most STRIP pairs."""
    step = max(1, STRIP // x.shape[0])
    return (slice(start, start + step) for start in range(0, x.shape[0], step))
