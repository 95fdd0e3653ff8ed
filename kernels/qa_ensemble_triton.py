"""Triton kernels of `qa_ensemble`: one read of the members for the forward sums, one for the gradients.

With p [B, M] the members, w and b the meta-learner, t the MOS and n the unmasked rows:

    y_i     = sum_m p_im w_m + b
    spread  = sqrt(sum_m |w_m| (p_im - y_i)^2 / sum_m |w_m|)
    L       = l1/2 mean((y - t)^2) + l2 (1 - r),   r = pearson(softmax(y), softmax(t)) = pearson(e^y, e^t)

Pearson's r ignores scale and offset, so the softmax denominators and any shift of y and t drop out; what is left are
the sums of e^y, e^2y, e^t, e^2t and e^(y+t), and of (y - t)^2. As raw sums these cancel when y hardly varies, and 1 - r
does when y is close to t, so they are taken about means, of x = e^(y-c) - 1, z = e^(t-d) - 1 and q = x - z, where c and
d are maxima and q = e^(t-d) (e^(y-c-t+d) - 1) when that exponent is small. No exponential can overflow.

    stage 1  each program, BLOCK rows: c, d, the block's means and co-moments         -> partials [PARTIALS + M, blocks]
    stage 2  one program, fp64: rescaled to global maxima and merged in block order   -> loss, stats [STATS + M]
             (M more programs: the column means)
    stage 3  each program, BLOCK rows: gradient of members, block sums of the rest    -> partials [M + 1, blocks]
    stage 4  one program per weight: the sum in block order

With X = e^y / mean(e^y) - 1 and Z alike, both of mean 0, and g the gradient that arrives at the loss

    dL/dy_i = l1 (y_i - t_i) / n - l2 (X_i + 1) (Z_i - sXZ/sXX X_i) / sqrt(sXX sZZ),    dL/dp_im = dL/dy_i w_m

The second part sums to 0 over the batch, since r does not change when all y move together: it gives the intercept no
gradient, and the weights the same one for members taken about their column means, which keeps digits.

The dot product of a row is in fp64 (M multiply-adds beside M loads), because y - c must keep the digits that set rows
apart; exponentials and sums within a block are fp32; the few sums over blocks are fp64. No atomics: every sum has one
order, which depends on B and M alone, so a result is the same on every run.
"""

# Inside a kernel the arguments are values of Triton's language, which has no types for them.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import triton
import triton.language as tl

from metaqap_fast.kernels.stats import ZERO_STD
from metaqap_fast.kernels.triton_math import correlation, exponentials, is_finite, round_to, split

_ZERO_STD = tl.constexpr(ZERO_STD)


@triton.jit
def _load_rows(members, weights, bias, start, left, row_stride, col_stride, weight_stride,
               BLOCK: tl.constexpr, M: tl.constexpr, M_PAD: tl.constexpr, CONTIGUOUS: tl.constexpr):  # fmt: skip
    """Members [BLOCK, M_PAD] and weights [M_PAD] in fp32 (0 beyond M), scores [BLOCK] in fp64.

    Offsets are 64-bit from the tensor to the block and 32-bit inside it, which halves the registers for addresses.
    """
    rows = tl.arange(0, BLOCK)
    cols = tl.arange(0, M_PAD)
    if CONTIGUOUS:  # M is known to the compiler, so whole vectors are loaded
        at = members + start * M + (rows[:, None] * M + cols[None, :])
    else:
        at = members + (start + rows[:, None]) * row_stride + cols[None, :].to(tl.int64) * col_stride
    inside = (rows < left)[:, None] & (cols < M)[None, :]
    p = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(weights + cols * weight_stride, mask=cols < M, other=0.0).to(tl.float32)
    y = tl.sum(p.to(tl.float64) * w.to(tl.float64)[None, :], axis=1) + tl.load(bias).to(tl.float64)
    return p, w, y


@triton.jit
def _load_valid(mask, start, rows, left, mask_stride, HAS_MASK: tl.constexpr):
    """Whether a row exists and is unmasked."""
    valid = rows < left
    if HAS_MASK:
        valid = valid & (tl.load(mask + (start + rows) * mask_stride, mask=valid, other=0) != 0)
    return valid


@triton.jit
def _exponentials(u, v):
    """e^u - 1, e^u, e^v - 1, e^v and e^u - e^v in fp32, each with its own digits, from u and v in fp64."""
    high, low = split(u)
    x, eu = exponentials(high, low)
    high, low = split(v)
    z, ev = exponentials(high, low)
    near = tl.abs(u - v) < 0.5
    high, low = split(tl.where(near, u - v, 0.0))
    apart, _ = exponentials(high, low)
    return x, eu, z, ev, tl.where(near, ev * apart, x - z)


@triton.jit
def combine_kernel(members, weights, bias, mask, score, spread, bad,
                   n_rows, row_stride, col_stride, weight_stride, mask_stride,
                   M: tl.constexpr, M_PAD: tl.constexpr, BLOCK: tl.constexpr,
                   CONTIGUOUS: tl.constexpr, HAS_MASK: tl.constexpr):  # fmt: skip
    """Score and spread of BLOCK rows, and how many unmasked ones have no finite score."""
    block = tl.program_id(0)
    start = block.to(tl.int64) * BLOCK
    left = (n_rows - start).to(tl.int32)
    rows = tl.arange(0, BLOCK)
    p, w, y = _load_rows(members, weights, bias, start, left, row_stride, col_stride, weight_stride,
                         BLOCK, M, M_PAD, CONTIGUOUS)  # fmt: skip
    size = tl.abs(w).to(tl.float64)
    total = tl.sum(size, axis=0)
    apart = p.to(tl.float64) - y[:, None]
    square = tl.sum(apart * apart * size[None, :], axis=1) * (1.0 / tl.where(total > 0.0, total, 1.0))
    tl.store(score + start + rows, y.to(tl.float32), mask=rows < left)
    tl.store(spread + start + rows, tl.sqrt(square).to(tl.float32), mask=rows < left)
    valid = _load_valid(mask, start, rows, left, mask_stride, HAS_MASK)
    tl.store(bad + block, tl.sum((valid & (is_finite(y) == 0)).to(tl.int32), axis=0))


@triton.jit
def loss_block_kernel(members, weights, bias, mos, mask, score, partials,
                      n_rows, n_blocks, row_stride, col_stride, weight_stride, mos_stride, mask_stride,
                      M: tl.constexpr, M_PAD: tl.constexpr, BLOCK: tl.constexpr,
                      CONTIGUOUS: tl.constexpr, HAS_MASK: tl.constexpr):  # fmt: skip
    """Stage 1: scores, and this block's maxima, means and co-moments."""
    block = tl.program_id(0)
    start = block.to(tl.int64) * BLOCK
    left = (n_rows - start).to(tl.int32)
    rows = tl.arange(0, BLOCK)
    p, _, y = _load_rows(members, weights, bias, start, left, row_stride, col_stride, weight_stride,
                         BLOCK, M, M_PAD, CONTIGUOUS)  # fmt: skip
    tl.store(score + start + rows, y.to(tl.float32), mask=rows < left)
    t = tl.load(mos + (start + rows) * mos_stride, mask=rows < left, other=0.0).to(tl.float32).to(tl.float64)
    valid = _load_valid(mask, start, rows, left, mask_stride, HAS_MASK)
    usable = is_finite(y) & is_finite(t)
    bad = tl.sum((valid & (usable == 0)).to(tl.float32), axis=0)
    valid = valid & usable
    count = tl.sum(valid.to(tl.float32), axis=0)
    y_max = tl.max(tl.where(valid, y, float("-inf")), axis=0)
    t_max = tl.max(tl.where(valid, t, float("-inf")), axis=0)

    miss = tl.where(valid, y - t, 0.0)
    u = tl.where(valid, y - y_max, 0.0)
    v = tl.where(valid, t - t_max, 0.0)
    x, eu, z, ev, q = _exponentials(u, v)  # x, z and q are 0 in rows that do not count

    size = tl.where(count > 0.0, count, 1.0)
    x_mean = tl.sum(x, axis=0) / size
    z_mean = tl.sum(z, axis=0) / size
    q_mean = tl.sum(q, axis=0) / size
    # The mean of e^u. Near 0 the sum of x has the digits; when most x are close to -1 it has lost them.
    ex_mean = tl.sum(tl.where(valid, eu, 0.0), axis=0).to(tl.float64) / size
    ez_mean = tl.sum(tl.where(valid, ev, 0.0), axis=0).to(tl.float64) / size
    ex_mean = tl.where(x_mean > -0.5, x_mean.to(tl.float64) + 1.0, ex_mean)
    ez_mean = tl.where(z_mean > -0.5, z_mean.to(tl.float64) + 1.0, ez_mean)
    x = tl.where(valid, x - x_mean, 0.0)
    z = tl.where(valid, z - z_mean, 0.0)
    q = tl.where(valid, q - q_mean, 0.0)

    out = partials + block
    tl.store(out, count.to(tl.float64))
    tl.store(out + n_blocks, bad.to(tl.float64))
    tl.store(out + 2 * n_blocks, y_max)
    tl.store(out + 3 * n_blocks, t_max)
    tl.store(out + 4 * n_blocks, tl.sum(miss * miss, axis=0))
    tl.store(out + 5 * n_blocks, ex_mean)
    tl.store(out + 6 * n_blocks, ez_mean)
    tl.store(out + 7 * n_blocks, q_mean.to(tl.float64))
    tl.store(out + 8 * n_blocks, tl.sum(x * x, axis=0).to(tl.float64))
    tl.store(out + 9 * n_blocks, tl.sum(z * z, axis=0).to(tl.float64))
    tl.store(out + 10 * n_blocks, tl.sum(x * z, axis=0).to(tl.float64))
    tl.store(out + 11 * n_blocks, tl.sum(q * q, axis=0).to(tl.float64))
    tl.store(out + 12 * n_blocks, tl.sum(x * q, axis=0).to(tl.float64))
    cols = tl.arange(0, M_PAD)
    p = tl.where(valid[:, None], p, 0.0)
    tl.store(out + (13 + cols) * n_blocks, tl.sum(p, axis=0).to(tl.float64), mask=cols < M)


@triton.jit
def _part(partials, index, n_blocks, at, other):
    """One row of the partials at blocks `at`, `other` beyond the last block."""
    return tl.load(partials + index * n_blocks + at, mask=at < n_blocks, other=other)


@triton.jit
def _merge_column(partials, stats, n_blocks, column, CHUNK: tl.constexpr):
    """Stage 2, program `column` + 1: the mean of one member over the rows that count."""
    lanes = tl.arange(0, CHUNK)
    count = tl.zeros([CHUNK], tl.float64)
    total = tl.zeros([CHUNK], tl.float64)
    for start in range(0, n_blocks, CHUNK):
        count += _part(partials, 0, n_blocks, start + lanes, 0.0)
        total += _part(partials, 13 + column, n_blocks, start + lanes, 0.0)
    n = tl.sum(count, axis=0)
    tl.store(stats + 7 + column, tl.sum(total, axis=0) / tl.where(n > 0.0, n, 1.0))


@triton.jit
def loss_merge_kernel(partials, loss, stats, n_blocks, l1, l2, CHUNK: tl.constexpr):
    """Stage 2, program 0: block maxima, means and co-moments to the loss and to what stage 3 needs (`stats`)."""
    if tl.program_id(0) > 0:
        _merge_column(partials, stats, n_blocks, tl.program_id(0) - 1, CHUNK)
        return
    lanes = tl.arange(0, CHUNK)
    count = tl.zeros([CHUNK], tl.float64)
    bad = tl.zeros([CHUNK], tl.float64)
    miss = tl.zeros([CHUNK], tl.float64)
    c = tl.full([CHUNK], float("-inf"), tl.float64)
    d = tl.full([CHUNK], float("-inf"), tl.float64)
    for start in range(0, n_blocks, CHUNK):
        at = start + lanes
        count += _part(partials, 0, n_blocks, at, 0.0)
        bad += _part(partials, 1, n_blocks, at, 0.0)
        c = tl.maximum(c, _part(partials, 2, n_blocks, at, float("-inf")))
        d = tl.maximum(d, _part(partials, 3, n_blocks, at, float("-inf")))
        miss += _part(partials, 4, n_blocks, at, 0.0)
    n = tl.sum(count, axis=0)
    some = n > 0.0
    n = tl.where(some, n, 1.0)
    n_bad = tl.sum(bad, axis=0)
    c_max = tl.where(some, tl.max(c, axis=0), 0.0)
    d_max = tl.where(some, tl.max(d, axis=0), 0.0)

    ex = tl.zeros([CHUNK], tl.float64)
    ez = tl.zeros([CHUNK], tl.float64)
    for start in range(0, n_blocks, CHUNK):
        at = start + lanes
        size = _part(partials, 0, n_blocks, at, 0.0)
        full = size > 0.0
        ex += tl.where(full, size * tl.exp(tl.where(full, _part(partials, 2, n_blocks, at, 0.0) - c_max, 0.0))
                       * _part(partials, 5, n_blocks, at, 0.0), 0.0)  # fmt: skip
        ez += tl.where(full, size * tl.exp(tl.where(full, _part(partials, 3, n_blocks, at, 0.0) - d_max, 0.0))
                       * _part(partials, 6, n_blocks, at, 0.0), 0.0)  # fmt: skip
    # e^y / e^c_log has mean 1: with these shifts x and z have mean 0.
    ex_mean = tl.where(some, tl.sum(ex, axis=0) / n, 1.0)
    ez_mean = tl.where(some, tl.sum(ez, axis=0) / n, 1.0)
    c_log = c_max + tl.log(ex_mean)
    d_log = d_max + tl.log(ez_mean)

    sxx = tl.zeros([CHUNK], tl.float64)
    szz = tl.zeros([CHUNK], tl.float64)
    sxz = tl.zeros([CHUNK], tl.float64)
    sqq = tl.zeros([CHUNK], tl.float64)
    sxq = tl.zeros([CHUNK], tl.float64)
    sq = tl.zeros([CHUNK], tl.float64)
    for start in range(0, n_blocks, CHUNK):
        at = start + lanes
        size = _part(partials, 0, n_blocks, at, 0.0)
        full = size > 0.0
        # X = a e^u - 1, Z = k e^v - 1, Q = X - Z = k (q + h e^u) with h = a / k - 1.
        a = tl.where(full, tl.exp(tl.where(full, _part(partials, 2, n_blocks, at, 0.0) - c_max, 0.0)) / ex_mean, 0.0)
        k = tl.where(full, tl.exp(tl.where(full, _part(partials, 3, n_blocks, at, 0.0) - d_max, 0.0)) / ez_mean, 0.0)
        eu = _part(partials, 5, n_blocks, at, 0.0)
        x = tl.where(full, a * eu - 1.0, 0.0)
        z = tl.where(full, k * _part(partials, 6, n_blocks, at, 0.0) - 1.0, 0.0)
        q = tl.where(full, k * _part(partials, 7, n_blocks, at, 0.0) + (a - k) * eu, 0.0)
        bxx = _part(partials, 8, n_blocks, at, 0.0)
        bxq = _part(partials, 12, n_blocks, at, 0.0)
        sxx += a * a * bxx + size * x * x
        szz += k * k * _part(partials, 9, n_blocks, at, 0.0) + size * z * z
        sxz += a * k * _part(partials, 10, n_blocks, at, 0.0) + size * x * z
        # k (q + h e^u) about its mean, with k h = a - k
        h = a - k
        sqq += k * k * _part(partials, 11, n_blocks, at, 0.0) + 2.0 * k * h * bxq + h * h * bxx + size * q * q
        sxq += a * (k * bxq + h * bxx) + size * x * q
        sq += size * q
    txx = tl.sum(sxx, axis=0)
    tzz = tl.sum(szz, axis=0)
    tq = tl.sum(sq, axis=0)
    tqq = tl.sum(sqq, axis=0) - tq * tq / n
    defined = (
        some
        & (tl.sqrt(txx / n) > (1.0 + tl.abs(c_log)) * _ZERO_STD)
        & (tl.sqrt(tzz / n) > (1.0 + tl.abs(d_log)) * _ZERO_STD)
    )
    txz = tl.sum(sxz, axis=0)
    distance, cx, cz, cq = correlation(txx, tzz, txz, tqq, tl.sum(sxq, axis=0), defined, n)
    result = 0.5 * l1 * tl.sum(miss, axis=0) / n + l2 * distance
    result = tl.where(some, result, 0.0)
    result = tl.where(n_bad > 0.0, float("nan"), result)
    tl.store(loss, result.to(tl.float32))
    poison = tl.where(n_bad > 0.0, float("nan"), 1.0)
    tl.store(stats, n_bad)
    tl.store(stats + 1, c_log)
    tl.store(stats + 2, d_log)
    tl.store(stats + 3, tl.where(some, l1 / n, 0.0) * poison)
    tl.store(stats + 4, l2 * cx * poison)
    tl.store(stats + 5, l2 * cz * poison)
    tl.store(stats + 6, l2 * cq * poison)


@triton.jit
def loss_grad_kernel(members, weights, bias, mos, mask, stats, grad_loss, grad_score,
                     grad_members, partials, n_rows, n_blocks,
                     row_stride, col_stride, weight_stride, mos_stride, mask_stride, grad_stride,
                     M: tl.constexpr, M_PAD: tl.constexpr, BLOCK: tl.constexpr, CONTIGUOUS: tl.constexpr,
                     HAS_MASK: tl.constexpr, HAS_LOSS: tl.constexpr, HAS_SCORE: tl.constexpr,
                     HAS_MEMBERS: tl.constexpr, INTERPRET: tl.constexpr):  # fmt: skip
    """Stage 3: dL/dy of BLOCK rows, the members' gradient, and the block's sums for weights and intercept."""
    block = tl.program_id(0)
    start = block.to(tl.int64) * BLOCK
    left = (n_rows - start).to(tl.int32)
    rows = tl.arange(0, BLOCK)
    p, weight, y = _load_rows(members, weights, bias, start, left, row_stride, col_stride, weight_stride,
                              BLOCK, M, M_PAD, CONTIGUOUS)  # fmt: skip
    usable = is_finite(y) & (rows < left)  # a masked row may hold NaN: it gives and takes nothing
    g = tl.zeros([BLOCK], tl.float32)  # what every sum takes as it is
    h = tl.zeros([BLOCK], tl.float32)  # the correlation's part, which sums to 0 over the batch
    if HAS_LOSS:
        valid = _load_valid(mask, start, rows, left, mask_stride, HAS_MASK)
        t = tl.load(mos + (start + rows) * mos_stride, mask=valid, other=0.0).to(tl.float32).to(tl.float64)
        lost = valid & (usable == 0)  # only if the caller chose not to check: its gradient is NaN, as the loss is
        valid = valid & usable
        upstream = tl.load(grad_loss).to(tl.float32)
        c_miss = tl.load(stats + 3).to(tl.float32) * upstream
        g = tl.where(valid, (y - t).to(tl.float32) * c_miss, tl.where(lost, float("nan"), 0.0))
        u = tl.where(valid, y - tl.load(stats + 1), 0.0)
        v = tl.where(valid, t - tl.load(stats + 2), 0.0)
        x, eu, z, _, q = _exponentials(u, v)
        cx = tl.load(stats + 4).to(tl.float32)
        cz = tl.load(stats + 5).to(tl.float32)
        cq = tl.load(stats + 6).to(tl.float32)
        h = tl.where(valid, eu * (cx * x + cz * z + cq * q) * upstream, 0.0)
    if HAS_SCORE:
        g += tl.load(grad_score + (start + rows) * grad_stride, mask=usable, other=0.0).to(tl.float32)
    cols = tl.arange(0, M_PAD)
    if HAS_MEMBERS:
        inside = (rows < left)[:, None] & (cols < M)[None, :]
        value = round_to((g + h)[:, None] * weight[None, :], grad_members.dtype.element_ty, INTERPRET)
        tl.store(grad_members + start * M + (rows[:, None] * M + cols[None, :]), value, mask=inside)
    p = tl.where(usable[:, None], p, 0.0)
    centre = tl.load(stats + 7 + cols, mask=cols < M, other=0.0).to(tl.float32)
    terms = g[:, None] * p + h[:, None] * (p - centre[None, :])
    tl.store(partials + cols * n_blocks + block, tl.sum(terms, axis=0), mask=cols < M)
    tl.store(partials + M * n_blocks + block, tl.sum(g, axis=0))


@triton.jit
def sum_kernel(partials, out, n_blocks, CHUNK: tl.constexpr):
    """Stage 4: row `program_id` of partials [rows, blocks], summed in block order in fp64."""
    row = tl.program_id(0)
    lanes = tl.arange(0, CHUNK)
    total = tl.zeros([CHUNK], tl.float64)
    for start in range(0, n_blocks, CHUNK):
        at = start + lanes
        total += tl.load(partials + row.to(tl.int64) * n_blocks + at, mask=at < n_blocks, other=0.0).to(tl.float64)
    tl.store(out + row, tl.sum(total, axis=0).to(tl.float32))
