"""Arithmetic that the Triton kernels share. FP fusion is off in every launch, see `OPTIONS`."""

# Inside a kernel the arguments are values of Triton's language, which has no types for them.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

# Whether a * b + c is contracted to one rounding is a compiler default that changes between Triton releases; scores
# must not change with it, so it is pinned for every kernel, ahead of time and at launch.
OPTIONS: dict[str, Any] = {"enable_fp_fusion": False}

INTERPRETED: bool = bool(triton.knobs.runtime.interpret)
"""Whether the kernels were decorated for the interpreter, which is decided once, on import."""


@triton.jit
def split(u):
    """fp64 to two fp32 that add up to it, to about 2^-48."""
    high = u.to(tl.float32)
    return high, (u - high.to(tl.float64)).to(tl.float32)


@triton.jit
def exponentials(high, low):
    """exp(u) - 1 and exp(u) in fp32 for u = high + low, both with relative errors of a few 1e-7, exp(u) - 1 near 0 too.

    u = k ln 2 + r with |r| < 0.35, then 2^k (exp(r) - 1) + (2^k - 1), the first by Taylor to r^7/7! (remainder 2e-8).
    ln 2 is taken in two parts whose product with k is exact (Cody and Waite), so that an error does not grow with u, as
    it does in the hardware's exponential, nor with the rounding of u, which `low` makes good. Below -80 exp(u) is
    exp(-80); nothing is passed here that could be above 80.
    """
    low = tl.where(high < -80.0, 0.0, low)
    high = tl.maximum(high, -80.0)
    k = tl.floor(high * 1.4426950408889634 + 0.5)
    r = ((high - k * 0.693359375) + k * 2.12194440e-4) + low
    p = r * (1.0 / 5040.0) + (1.0 / 720.0)
    p = p * r + (1.0 / 120.0)
    p = p * r + (1.0 / 24.0)
    p = p * r + (1.0 / 6.0)
    p = p * r + 0.5
    p = r + (p * r) * r
    power = ((k.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    return power * p + (power - 1.0), power * p + power


@triton.jit
def tanh(u):
    """tanh(u) in fp32, odd to the last bit: -expm1(-2|u|) / (2 + expm1(-2|u|)), with the sign of u."""
    m, _ = exponentials(-2.0 * tl.abs(u), 0.0)
    t = -m / (2.0 + m)
    return tl.where(u < 0.0, -t, t)


@triton.jit
def is_finite(v):
    """False for NaN and the infinities."""
    return (v - v) == 0.0


@triton.jit
def round_to(v, dtype: tl.constexpr, INTERPRET: tl.constexpr):
    """fp32 to `dtype`, to nearest even. Triton's interpreter truncates to bf16, so there the bits are rounded first."""
    if INTERPRET and dtype == tl.bfloat16:
        bits = v.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
        v = tl.where(is_finite(v), bits.to(tl.float32, bitcast=True), v)
    return v.to(dtype)


@triton.jit
def correlation(sxx, szz, sxz, sqq, sxq, defined, n):
    """1 - r and the coefficients of its gradient, from co-moments of x, z and q = x - z, all scalars in fp64.

        r            = sxz / sqrt(sxx szz)
        1 - r^2      = (sxx sqq - sxq^2) / (sxx szz)                     because z = x - q
        -dr / dx_i   = -(z_i - (sxz / sxx) x_i) / sqrt(sxx szz)          x, z, q about their means
                     = -((sxq / sxx) x_i - q_i) / sqrt(sxx szz)

    When x is close to z, so that r is close to 1, the forms in q keep the digits that 1 - r loses to cancellation;
    when q is as large as z they would lose some themselves. `defined` False gives r = 0 and no gradient; of n = 2 rows
    the correlation is 1 or -1 whatever they are, so its gradient is 0.

    Returns:
        1 - r, and (cx, cz, cq) with -dr / dx_i = cx x_i + cz z_i + cq q_i.
    """
    xx = tl.where(defined, sxx, 1.0)
    zz = tl.where(defined, szz, 1.0)
    norm = tl.sqrt(xx) * tl.sqrt(zz)
    pair = defined & (n == 2.0)
    r = tl.where(defined, sxz / norm, 0.0)
    r = tl.where(pair, tl.where(sxz < 0.0, -1.0, 1.0), r)
    close = defined & (pair == 0) & (r > 0.0) & (4.0 * sqq < zz)
    residual = (sqq / zz - (sxq / xx) * (sxq / zz)) / (1.0 + tl.where(close, r, 0.0))
    distance = tl.where(close, tl.where(residual > 0.0, residual, 0.0), 1.0 - r)
    scale = tl.where(defined & (pair == 0), 1.0 / norm, 0.0)
    cx = tl.where(close, -(sxq / xx), sxz / xx) * scale
    cz = tl.where(close, 0.0, -scale)
    cq = tl.where(close, scale, 0.0)
    return distance, cx, cz, cq
