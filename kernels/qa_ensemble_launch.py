"""Launches of the kernels in `qa_ensemble_triton`."""

from __future__ import annotations

import torch
from torch import Tensor

from metaqap_fast.kernels import qa_ensemble_triton as kernels
from metaqap_fast.kernels.dispatch import as_dtype, buffer, launch

FINISH_BLOCK = 1024
NUM_WARPS = 8


def tile_constants(columns: int) -> dict[str, int]:
    """Compile-time sizes for M members: rows of a tile, M padded to a power of two.

    They depend on M alone, not on the batch or the GPU: so does the order of every sum.
    """
    padded = 1 << (columns - 1).bit_length()
    return {
        "M": columns,
        "MP": padded,
        "LOG_MP": padded.bit_length() - 1,
        "BLOCK": 1024 if padded <= 8 else 512,  # at most 32 members in a thread's registers
    }


def combine(members: Tensor, weights: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Score and spread [B], float32."""
    rows, columns = members.shape
    constants = tile_constants(columns)
    score = buffer((rows,), members, torch.float32)
    spread = buffer((rows,), members, torch.float32)
    launch(
        kernels.combine_rows, (_tiles(rows, constants),),
        members, weights, bias, score, spread, rows, *members.stride(), weights.stride(0),
        **constants, PACKED=_packed(members), num_warps=NUM_WARPS,
    )  # fmt: skip
    return score, spread


def loss_forward(
    members: Tensor, weights: Tensor, bias: Tensor, mos: Tensor, mask: Tensor | None, l1: float, l2: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [], score [B], both float32, and the statistics, float64."""
    rows, columns = members.shape
    constants = tile_constants(columns)
    tiles = _tiles(rows, constants)
    count = kernels.MEMBER_SUMS.value + columns
    score = buffer((rows,), members, torch.float32)
    sums = buffer((count, tiles), members, torch.float64)
    stats = buffer((count,), members, torch.float64)
    loss = buffer((), members, torch.float32)
    mask_pointer, mask_stride = _mask(mask, mos)
    launch(
        kernels.loss_rows, (tiles,),
        members, weights, bias, mos, mask_pointer, score, sums, rows, *members.stride(), weights.stride(0),
        mos.stride(0), mask_stride, tiles,
        **constants, PACKED=_packed(members), MASKED=mask is not None, num_warps=NUM_WARPS,
    )  # fmt: skip
    launch(
        kernels.loss_finish, (1 + columns,), sums, stats, loss, tiles, l1, l2, BLOCK=FINISH_BLOCK, num_warps=NUM_WARPS
    )
    return loss, score, stats


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
    rows, columns = members.shape
    constants = tile_constants(columns)
    tiles = _tiles(rows, constants)
    grad_members = buffer((rows, columns) if to_members else (0,), members)
    grad_weights = buffer((columns,), weights)
    grad_bias = buffer((), bias)
    sums = buffer((columns + 1, tiles), members, torch.float64)
    mask_pointer, mask_stride = _mask(mask, mos)
    through = mos if grad_score is None else grad_score
    launch(
        kernels.grad_rows, (tiles,),
        members, weights, bias, mos, mask_pointer, stats, grad_loss, through, grad_members, sums, rows,
        *members.stride(), weights.stride(0), mos.stride(0), mask_stride, through.stride(0), tiles, l1, l2,
        **constants, PACKED=_packed(members), MASKED=mask is not None, THROUGH_SCORE=grad_score is not None,
        TO_MEMBERS=to_members, num_warps=NUM_WARPS,
    )  # fmt: skip
    launch(
        kernels.grad_finish, (columns + 1,),
        sums, stats, grad_loss, grad_weights, grad_bias, tiles, l1, M=columns, BLOCK=FINISH_BLOCK, num_warps=NUM_WARPS,
    )  # fmt: skip
    return (
        as_dtype(grad_members, members.dtype),
        as_dtype(grad_weights, weights.dtype),
        as_dtype(grad_bias, bias.dtype),
    )


def _tiles(rows: int, constants: dict[str, int]) -> int:
    return (rows + constants["BLOCK"] - 1) // constants["BLOCK"]


def _packed(members: Tensor) -> bool:
    return members.is_contiguous()


def _mask(mask: Tensor | None, instead: Tensor) -> tuple[Tensor, int]:
    """Pointer and stride for a kernel that does not look at them without a mask."""
    return (instead, 0) if mask is None else (mask, mask.stride(0))
