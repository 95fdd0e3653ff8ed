"""Argument checks shared by the operators: a ValueError that names the argument."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_MEMBERS = 16
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def tensor(name: str, value: Tensor, dims: int, dtypes: tuple[torch.dtype, ...], like: Tensor | None = None) -> None:
    """Checks the dimensions and dtype of `value`, and that it is where `like` is."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name}: expected a tensor, got {type(value).__name__}")
    if value.ndim != dims:
        raise ValueError(f"{name}: expected {dims} dimension{'s'[: dims != 1]}, got shape {tuple(value.shape)}")
    if value.dtype not in dtypes:
        allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise ValueError(f"{name}: expected one of {allowed}, got {str(value.dtype).removeprefix('torch.')}")
    if like is not None and value.device != like.device:
        raise ValueError(f"{name}: expected on {like.device}, is on {value.device}")


def length(name: str, value: Tensor, expected: int) -> None:
    """Checks that the vector `value` has `expected` elements."""
    if value.shape[0] != expected:
        raise ValueError(f"{name}: expected {expected} elements, got {value.shape[0]}")


def float_dtypes(impl: str) -> tuple[torch.dtype, ...]:
    """The dtypes that `impl` takes: float64 only where torch computes, which is what gradcheck needs."""
    if impl not in ("triton", "torch"):
        raise ValueError(f"impl: expected 'triton' or 'torch', got {impl!r}")
    return DTYPES if impl == "triton" else (*DTYPES, torch.float64)


def device(name: str, value: Tensor) -> None:
    """Checks that the operators have an implementation where `value` is."""
    if value.device.type not in ("cpu", "cuda", "meta"):
        raise ValueError(f"{name}: expected on cpu or cuda, is on {value.device}")


def ensemble(members: Tensor, weights: Tensor, bias: Tensor | float, impl: str) -> Tensor:
    """Checks members [B, M], weights [M] and the intercept; gives the intercept as a 0-dimensional tensor."""
    dtypes = float_dtypes(impl)
    tensor("members", members, 2, dtypes)
    device("members", members)
    rows, columns = members.shape
    if rows < 1:
        raise ValueError("members: expected at least one row")
    if not 1 <= columns <= MAX_MEMBERS:
        raise ValueError(f"members: expected 1 to {MAX_MEMBERS} columns, got {columns}")
    tensor("weights", weights, 1, dtypes, like=members)
    length("weights", weights, columns)
    if isinstance(bias, float | int):
        wide = torch.float64 if members.dtype == torch.float64 else torch.float32
        return torch.full((), bias, dtype=wide, device=members.device)
    if isinstance(bias, Tensor) and bias.ndim == 1 and bias.shape[0] == 1:
        bias = bias.reshape(())  # a linear layer's bias; reshape keeps it differentiable
    tensor("bias", bias, 0, dtypes, like=members)
    return bias


def row_mask(mask: Tensor | None, rows: int, like: Tensor) -> None:
    """Checks an optional bool mask [B]."""
    if mask is not None:
        tensor("mask", mask, 1, (torch.bool,), like=like)
        length("mask", mask, rows)


def mos(value: Tensor, rows: int, like: Tensor, impl: str) -> None:
    """Checks mean opinion scores [B]."""
    tensor("mos", value, 1, float_dtypes(impl), like=like)
    length("mos", value, rows)


def finite(mask: Tensor | None, **arguments: Tensor) -> None:
    """Raises a ValueError naming the first argument with a NaN or an infinity in an unmasked row.

    Row arguments are those whose first dimension is the batch; a 0-dimensional one or `weights` is checked whole.
    """
    for name, value in arguments.items():
        bad = ~torch.isfinite(value)
        if name != "weights" and value.ndim:
            rows = bad.reshape(value.shape[0], -1).any(dim=1)
            rows = rows if mask is None else rows & mask
            if bool(rows.any()):
                first = int(rows.nonzero()[0, 0])
                raise ValueError(f"{name}: NaN or infinite in {int(rows.sum())} unmasked rows, the first is {first}")
        elif bool(bad.any()):
            raise ValueError(f"{name}: NaN or infinite")
