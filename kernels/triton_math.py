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
def expm1(u):
    """exp(u) - 1 in fp32, relative error below 4e-7 near 0, where exp(u) - 1 itself would have lost the digits of u.

    Taylor to u^8/8! for |u| < 1/2 (remainder 0.5^8/9! = 1e-8), the exponential elsewhere.
    """
    small = tl.abs(u) < 0.5
    v = tl.where(small, u, 0.0)
    p = v * (1.0 / 40320.0) + (1.0 / 5040.0)
    p = p * v + (1.0 / 720.0)
    p = p * v + (1.0 / 120.0)
    p = p * v + (1.0 / 24.0)
    p = p * v + (1.0 / 6.0)
    p = p * v + 0.5
    p = p * v + 1.0
    return tl.where(small, p * v, tl.exp(u) - 1.0)


@triton.jit
def tanh(u):
    """tanh(u) in fp32, odd to the last bit: -expm1(-2|u|) / (2 + expm1(-2|u|)), with the sign of u."""
    m = expm1(-2.0 * tl.abs(u))
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
