"""Triton kernels of `soft_spearman`: soft ranks by tiles of pairs, O(B) memory.

With T the temperature and sums over unmasked rows, the soft rank of i and its distance from the mean rank n/2 are

    R(x)_i = sum_j sigmoid((x_i - x_j) / T)
    a_i    = R(x)_i - n/2 = 1/2 sum_j tanh((x_i - x_j) / 2T)            since sigmoid(u) = 1/2 + 1/2 tanh(u/2)

and the mean of R is n/2 whatever x is, since the terms of (i, j) and (j, i) cancel. So with c_i the same of the MOS,

    L = 1 - sum a c / sqrt(sum a^2 sum c^2)

without a mean to subtract. e_i = a_i - c_i is summed beside them, pair by pair, for the digits of L when the two
orders nearly agree. With s the derivative of the sigmoid, which is even, and G_i = dL/da_i,

    dL/dx_k = 1/T sum_j s((x_k - x_j) / T) (G_k - G_j)

    stage 1  each program, ROWS rows against all in tiles of COLUMNS: a, c, e           -> ranks [3, B]
    stage 2  one program, fp64: the co-moments, L and the coefficients of dL/da         -> loss, stats [SPEARMAN_STATS]
    stage 3  each program, ROWS rows against all: dL/dx                                 -> [B]
"""

# Inside a kernel the arguments are values of Triton's language, which has no types for them.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from metaqap_fast.kernels.launch import on_device
from metaqap_fast.kernels.stats import SPEARMAN_STATS
from metaqap_fast.kernels.triton_math import INTERPRETED, OPTIONS, correlation, is_finite, round_to, tanh

ROWS = 16
COLUMNS = 128
RANK_WARPS = 4
MERGE_BLOCK = 1024


@triton.jit
def _load(values, mask, at, n_rows, stride, mask_stride, HAS_MASK: tl.constexpr):
    """Values in fp32, 0 in rows that do not count, and which do."""
    valid = at < n_rows
    if HAS_MASK:
        valid = valid & (tl.load(mask + at.to(tl.int64) * mask_stride, mask=valid, other=0) != 0)
    return tl.load(values + at.to(tl.int64) * stride, mask=valid, other=0.0).to(tl.float32), valid


@triton.jit
def rank_kernel(score, mos, mask, ranks, bad, n_rows, score_stride, mos_stride, mask_stride,
                slope, ROWS: tl.constexpr, COLUMNS: tl.constexpr, HAS_MASK: tl.constexpr):  # fmt: skip
    """Stage 1; `slope` is 1 / 2T."""
    block = tl.program_id(0)
    i = block * ROWS + tl.arange(0, ROWS)
    xi, valid = _load(score, mask, i, n_rows, score_stride, mask_stride, HAS_MASK)
    ti, valid = _load(mos, mask, i, n_rows, mos_stride, mask_stride, HAS_MASK)
    unusable = valid & ((is_finite(xi) & is_finite(ti)) == 0)
    tl.store(bad + block, tl.sum(unusable.to(tl.int32), axis=0))
    a = tl.zeros([ROWS, COLUMNS], tl.float32)
    c = tl.zeros([ROWS, COLUMNS], tl.float32)
    e = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, n_rows, COLUMNS):
        j = start + tl.arange(0, COLUMNS)
        xj, other = _load(score, mask, j, n_rows, score_stride, mask_stride, HAS_MASK)
        tj, other = _load(mos, mask, j, n_rows, mos_stride, mask_stride, HAS_MASK)
        pair = valid[:, None] & other[None, :]
        u = tl.where(pair, xi[:, None] - xj[None, :], 0.0) * slope
        v = tl.where(pair, ti[:, None] - tj[None, :], 0.0) * slope
        tu = tanh(u)
        tv = tanh(v)
        a += tu
        c += tv
        # tanh u - tanh v = tanh(u - v) (1 - tanh u tanh v), the tanh by Taylor (remainder 3e-8 of it).
        near = tl.abs(u - v) < 0.25
        w = tl.where(near, u - v, 0.0)
        s = w * w
        t = s * (62.0 / 2835.0) - 17.0 / 315.0
        t = w * (1.0 + s * (-1.0 / 3.0 + s * (2.0 / 15.0 + s * t)))
        e += tl.where(near, t * (1.0 - tu * tv), tu - tv)
    inside = i < n_rows
    tl.store(ranks + i, 0.5 * tl.sum(a, axis=1), mask=inside)
    tl.store(ranks + n_rows + i, 0.5 * tl.sum(c, axis=1), mask=inside)
    tl.store(ranks + 2 * n_rows + i, 0.5 * tl.sum(e, axis=1), mask=inside)


@triton.jit
def spearman_merge_kernel(ranks, bad, loss, stats, n_rows, n_blocks, mask, mask_stride,
                          CHUNK: tl.constexpr, HAS_MASK: tl.constexpr):  # fmt: skip
    """Stage 2; rows that do not count have ranks of 0 and add nothing."""
    lanes = tl.arange(0, CHUNK)
    n_bad = tl.zeros([CHUNK], tl.int32)
    for start in range(0, n_blocks, CHUNK):
        n_bad += tl.load(bad + start + lanes, mask=start + lanes < n_blocks, other=0)
    count = tl.zeros([CHUNK], tl.float64)
    aa = tl.zeros([CHUNK], tl.float64)
    cc = tl.zeros([CHUNK], tl.float64)
    ac = tl.zeros([CHUNK], tl.float64)
    ee = tl.zeros([CHUNK], tl.float64)
    ae = tl.zeros([CHUNK], tl.float64)
    for start in range(0, n_rows, CHUNK):
        at = start + lanes
        inside = at < n_rows
        a = tl.load(ranks + at, mask=inside, other=0.0).to(tl.float64)
        c = tl.load(ranks + n_rows + at, mask=inside, other=0.0).to(tl.float64)
        e = tl.load(ranks + 2 * n_rows + at, mask=inside, other=0.0).to(tl.float64)
        if HAS_MASK:
            inside = inside & (tl.load(mask + at.to(tl.int64) * mask_stride, mask=inside, other=0) != 0)
        count += inside.to(tl.float64)
        aa += a * a
        cc += c * c
        ac += a * c
        ee += e * e
        ae += a * e
    saa = tl.sum(aa, axis=0)
    scc = tl.sum(cc, axis=0)
    n = tl.sum(count, axis=0)
    defined = (saa > 0.0) & (scc > 0.0)
    distance, ca, cc_, ce = correlation(
        saa, scc, tl.sum(ac, axis=0), tl.sum(ee, axis=0), tl.sum(ae, axis=0), defined, n
    )
    poison = tl.where(tl.sum(n_bad, axis=0) > 0, float("nan"), 1.0).to(tl.float64)
    tl.store(loss, (tl.where(n > 0.0, distance, 0.0) * poison).to(tl.float32))
    tl.store(stats, tl.sum(n_bad, axis=0).to(tl.float64))
    tl.store(stats + 1, ca * poison)
    tl.store(stats + 2, cc_ * poison)
    tl.store(stats + 3, ce * poison)


@triton.jit
def _grad_rank(ranks, at, valid, n_rows, ca, cc, ce):
    """G = dL/da, 0 in rows that do not count."""
    a = tl.load(ranks + at, mask=valid, other=0.0)
    c = tl.load(ranks + n_rows + at, mask=valid, other=0.0)
    e = tl.load(ranks + 2 * n_rows + at, mask=valid, other=0.0)
    return ca * a + cc * c + ce * e


@triton.jit
def spearman_grad_kernel(score, mask, ranks, stats, grad_loss, grad_score,
                         n_rows, score_stride, mask_stride, slope,
                         ROWS: tl.constexpr, COLUMNS: tl.constexpr, HAS_MASK: tl.constexpr,
                         INTERPRET: tl.constexpr):  # fmt: skip
    """Stage 3; `slope` is 1 / 2T, and s(u) = e^-|u| / (1 + e^-|u|)^2."""
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ca = tl.load(stats + 1).to(tl.float32)
    cc = tl.load(stats + 2).to(tl.float32)
    ce = tl.load(stats + 3).to(tl.float32)
    xi, valid = _load(score, mask, i, n_rows, score_stride, mask_stride, HAS_MASK)
    gi = _grad_rank(ranks, i, valid, n_rows, ca, cc, ce)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, n_rows, COLUMNS):
        j = start + tl.arange(0, COLUMNS)
        xj, other = _load(score, mask, j, n_rows, score_stride, mask_stride, HAS_MASK)
        gj = _grad_rank(ranks, j, other, n_rows, ca, cc, ce)
        pair = valid[:, None] & other[None, :]
        u = tl.where(pair, xi[:, None] - xj[None, :], 0.0) * slope
        d = tl.exp(-2.0 * tl.abs(u))
        total += tl.where(pair, d / ((1.0 + d) * (1.0 + d)) * (gi[:, None] - gj[None, :]), 0.0)
    value = tl.sum(total, axis=1) * (2.0 * slope) * tl.load(grad_loss).to(tl.float32)
    tl.store(grad_score + i, round_to(value, grad_score.dtype.element_ty, INTERPRET), mask=i < n_rows)


def forward(score: Tensor, mos: Tensor, temperature: float, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Loss (0-dimensional) and ranks [3, B] in fp32, stats [SPEARMAN_STATS] in fp64."""
    rows = score.shape[0]
    blocks = triton.cdiv(rows, ROWS)
    loss = score.new_empty((), dtype=torch.float32)
    ranks = score.new_empty((3, rows), dtype=torch.float32)
    stats = score.new_empty(SPEARMAN_STATS, dtype=torch.float64)
    bad = score.new_empty(blocks, dtype=torch.int32)
    flags = bad if mask is None else mask.view(torch.uint8)
    with on_device(score):
        rank_kernel[(blocks,)](
            score, mos, flags, ranks, bad, rows, score.stride(0), mos.stride(0), flags.stride(0), 0.5 / temperature,
            ROWS=ROWS, COLUMNS=COLUMNS, HAS_MASK=mask is not None, num_warps=RANK_WARPS, **OPTIONS,
        )  # fmt: skip
        spearman_merge_kernel[(1,)](
            ranks, bad, loss, stats, rows, blocks, flags, flags.stride(0), CHUNK=MERGE_BLOCK,
            HAS_MASK=mask is not None, num_warps=8, **OPTIONS,
        )  # fmt: skip
    return loss, ranks, stats


def backward(
    grad_loss: Tensor, score: Tensor, temperature: float, mask: Tensor | None, ranks: Tensor, stats: Tensor
) -> Tensor:
    """Gradient of the score [B], in its dtype."""
    rows = score.shape[0]
    grad_score = score.new_empty(rows)
    flags = ranks if mask is None else mask.view(torch.uint8)
    with on_device(score):
        spearman_grad_kernel[(triton.cdiv(rows, ROWS),)](
            score, flags, ranks, stats, grad_loss, grad_score, rows, score.stride(0), flags.stride(0),
            0.5 / temperature, ROWS=ROWS, COLUMNS=COLUMNS, HAS_MASK=mask is not None, INTERPRET=INTERPRETED,
            num_warps=RANK_WARPS, **OPTIONS,
        )  # fmt: skip
    return grad_score
