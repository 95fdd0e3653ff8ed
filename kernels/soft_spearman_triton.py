"""Triton kernels of the soft Spearman loss.

With scores x [B], MOS t [B], temperature T and sums over the unmasked rows:

    soft rank   R(x)_i = sum_j sigmoid((x_i - x_j) / T)
    loss        L = 1 - r,   r = pearson(R(x), R(t))

The ranks are kept centred: sum_j (sigmoid - 1/2) has mean zero over i, because sigmoid - 1/2 is odd, and Pearson
ignores the offset. With A = sum R(x)^2, E = sum R(t)^2, alpha = r / A, beta = 1 / sqrt(A E):

    G_i = -dL/dR(x)_i = beta R(t)_i - alpha R(x)_i
    dL/dx_k = 1/T sum_j sigmoid'((x_k - x_j) / T) (G_j - G_k),   because sigmoid' is even

Passes: `rank_rows` writes the ranks [2, B], a block of rows i against all rows j, tile by tile; `rank_finish` takes the
correlation; `rank_grad` goes over the tiles again. Memory is 8 bytes per row; every sum has a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from metaqap_fast.kernels.triton_math import exponential, times, unusable

# The statistics [5].
N = tl.constexpr(0)
ALPHA = tl.constexpr(1)
BETA = tl.constexpr(2)
BAD_SCORES = tl.constexpr(3)
BAD_MOS = tl.constexpr(4)


@triton.jit
def load_rows(pointer, row, stride, inside):
    """One float32 per row, 0 outside."""
    return tl.load(pointer + row.to(tl.int64) * stride, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def load_valid(mask, row, stride_k, B, MASKED: tl.constexpr):
    """Rows that exist and are not masked."""
    valid = row < B
    if MASKED:
        valid = valid & (tl.load(mask + row.to(tl.int64) * stride_k, mask=valid, other=0) != 0)
    return valid


@triton.jit
def centred_sigmoid(z):
    """sigmoid(z) - 1/2 = tanh(|z| / 2) / 2 with the sign of z; accurate near 0, where a sigmoid would cancel."""
    q, _ = exponential(-tl.abs(z))
    half = 0.5 * (-q / (2.0 + q))
    return tl.where(z < 0, -half, half)


@triton.jit
def rank_rows(
    score, mos, mask, ranks, B, stride_x, stride_t, stride_k, scale,
    MASKED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Centred soft ranks of ROWS rows, of the scores in programs (., 0) and of the MOS in (., 1). scale = 1 / T."""
    of_mos = tl.program_id(1) == 1
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    valid_i = load_valid(mask, i, stride_k, B, MASKED)
    if of_mos:
        x_i = load_rows(mos, i, stride_t, valid_i)
    else:
        x_i = load_rows(score, i, stride_x, valid_i)
    rank = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, B, COLUMNS):
        j = start + tl.arange(0, COLUMNS)
        valid_j = load_valid(mask, j, stride_k, B, MASKED)
        if of_mos:
            x_j = load_rows(mos, j, stride_t, valid_j)
        else:
            x_j = load_rows(score, j, stride_x, valid_j)
        share = centred_sigmoid((x_i[:, None] - x_j[None, :]) * scale)
        rank += tl.where(valid_j[None, :], share, 0.0)
    offset = tl.program_id(1) * B
    tl.store(ranks + offset + i, tl.where(valid_i, tl.sum(rank, axis=1), 0.0), mask=i < B)


@triton.jit
def rank_finish(
    score, mos, mask, ranks, stats, loss, B, stride_x, stride_t, stride_k, MASKED: tl.constexpr, BLOCK: tl.constexpr
):
    """Ranks to the loss and the statistics that the gradient needs; one program."""
    zero = tl.zeros([BLOCK], tl.float64)
    n_, xx_, tt_, xt_, bad_scores_, bad_mos_ = zero, zero, zero, zero, zero, zero
    for start in range(0, B, BLOCK):
        i = start + tl.arange(0, BLOCK)
        valid = load_valid(mask, i, stride_k, B, MASKED)
        x = tl.load(ranks + i, mask=valid, other=0.0).to(tl.float64)
        t = tl.load(ranks + B + i, mask=valid, other=0.0).to(tl.float64)
        n_ += valid.to(tl.float64)
        xx_ += x * x  # exact: float32 factors
        tt_ += t * t
        xt_ += x * t
        bad_scores_ += unusable(load_rows(score, i, stride_x, valid)).to(tl.float64)
        bad_mos_ += unusable(load_rows(mos, i, stride_t, valid)).to(tl.float64)
    n = tl.sum(n_, axis=0)
    a = tl.sum(xx_, axis=0)
    e = tl.sum(tt_, axis=0)
    bad_scores = tl.sum(bad_scores_, axis=0)
    bad_mos = tl.sum(bad_mos_, axis=0)
    # Constant scores or MOS: standard deviation of the ranks at most 1e-9 n.
    least = n * n * n * 1e-18
    varies = (a > least) & (e > least)
    a = tl.where(varies, a, 1.0)
    e = tl.where(varies, e, 1.0)
    beta = tl.where(varies, 1.0 / (tl.sqrt(a) * tl.sqrt(e)), 0.0)
    r = tl.minimum(tl.maximum(times(tl.sum(xt_, axis=0), beta), -1.0), 1.0)
    spoilt = tl.where(bad_scores + bad_mos > 0, float("nan"), 0.0).to(tl.float64)
    tl.store(loss, (tl.where(n > 0, 1.0 - r, 0.0) + spoilt).to(tl.float32))
    tl.store(stats + N, n)
    tl.store(stats + ALPHA, tl.where(varies, r / a, 0.0) + spoilt)
    tl.store(stats + BETA, beta + spoilt)
    tl.store(stats + BAD_SCORES, bad_scores)
    tl.store(stats + BAD_MOS, bad_mos)


@triton.jit
def rank_grad(
    score, mask, ranks, stats, grad_loss, grad_score, B, stride_x, stride_k, scale,
    MASKED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Gradient of ROWS scores, 0 where masked."""
    alpha = tl.load(stats + ALPHA).to(tl.float32)
    beta = tl.load(stats + BETA).to(tl.float32)
    k = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    valid_k = load_valid(mask, k, stride_k, B, MASKED)
    x_k = load_rows(score, k, stride_x, valid_k)
    g_k = rank_slope(ranks, k, B, alpha, beta, valid_k)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, B, COLUMNS):
        j = start + tl.arange(0, COLUMNS)
        valid_j = load_valid(mask, j, stride_k, B, MASKED)
        x_j = load_rows(score, j, stride_x, valid_j)
        g_j = rank_slope(ranks, j, B, alpha, beta, valid_j)
        _, e = exponential(-tl.abs((x_k[:, None] - x_j[None, :]) * scale))
        slope = e / ((1.0 + e) * (1.0 + e))  # sigmoid'
        total = tl.fma(tl.where(valid_j[None, :], slope, 0.0), g_j[None, :] - g_k[:, None], total)
    outer = tl.load(grad_loss).to(tl.float32) * scale
    grad = tl.where(valid_k, tl.sum(total, axis=1) * outer, 0.0)
    tl.store(grad_score + k, grad.to(grad_score.dtype.element_ty), mask=k < B)


@triton.jit
def rank_slope(ranks, row, B, alpha, beta, valid):
    """G of rows, see above."""
    x = tl.load(ranks + row, mask=valid, other=0.0)
    t = tl.load(ranks + B + row, mask=valid, other=0.0)
    return tl.fma(beta, t, times(-alpha, x))
