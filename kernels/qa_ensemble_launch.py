"""Launches the Triton kernels of `qa_ensemble`, which are described where they stand (`qa_ensemble_triton`)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from metaqap_fast.kernels.launch import on_device
from metaqap_fast.kernels.qa_ensemble_triton import (
    combine_kernel,
    loss_block_kernel,
    loss_grad_kernel,
    loss_merge_kernel,
    sum_kernel,
)
from metaqap_fast.kernels.stats import PARTIALS, STATS
from metaqap_fast.kernels.triton_math import INTERPRETED, OPTIONS

MERGE_BLOCK = 1024
SUM_BLOCK = 1024


class Tile(NamedTuple):
    """How a launch cuts the members: rows per program, columns padded to a power of two, warps."""

    rows: int
    columns: int
    warps: int


def tile(members: int) -> Tile:
    """At most 16 predictions per thread ([512, 8] for the usual 5 to 8 members): two or three programs fit on an SM."""
    return Tile(512, triton.next_power_of_2(members), 8)


def _strides(members: Tensor) -> tuple[int, int]:
    """Row and column stride, in elements; read as they are, never copied."""
    return members.stride(0), members.stride(1)


def combine(members: Tensor, weights: Tensor, bias: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Score and spread [B] in fp32, and the unusable unmasked rows of each block, int32."""
    rows, columns = members.shape
    cut = tile(columns)
    blocks = triton.cdiv(rows, cut.rows)
    score = members.new_empty(rows, dtype=torch.float32)
    spread = members.new_empty(rows, dtype=torch.float32)
    bad = members.new_empty(blocks, dtype=torch.int32)
    flags = _flags(mask, members)
    with on_device(members):
        combine_kernel[(blocks,)](
            members, weights, bias, flags, score, spread, bad, rows, *_strides(members), weights.stride(0),
            flags.stride(0), M=columns, M_PAD=cut.columns, BLOCK=cut.rows, CONTIGUOUS=members.is_contiguous(),
            HAS_MASK=mask is not None, num_warps=cut.warps, **OPTIONS,
        )  # fmt: skip
    return score, spread, bad


def loss_forward(
    members: Tensor, weights: Tensor, bias: Tensor, mos: Tensor, mask: Tensor | None, l1: float, l2: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss (0-dimensional) and score [B] in fp32, stats [STATS + M] in fp64."""
    rows, columns = members.shape
    cut = tile(columns)
    blocks = triton.cdiv(rows, cut.rows)
    score = members.new_empty(rows, dtype=torch.float32)
    loss = members.new_empty((), dtype=torch.float32)
    stats = members.new_empty(STATS + columns, dtype=torch.float64)
    partials = members.new_empty((PARTIALS + columns, blocks), dtype=torch.float64)
    flags = _flags(mask, members)
    with on_device(members):
        loss_block_kernel[(blocks,)](
            members, weights, bias, mos, flags, score, partials, rows, blocks, *_strides(members), weights.stride(0),
            mos.stride(0), flags.stride(0), M=columns, M_PAD=cut.columns, BLOCK=cut.rows,
            CONTIGUOUS=members.is_contiguous(), HAS_MASK=mask is not None, num_warps=cut.warps, **OPTIONS,
        )  # fmt: skip
        loss_merge_kernel[(columns + 1,)](
            partials, loss, stats, blocks, l1, l2, CHUNK=MERGE_BLOCK, num_warps=8, **OPTIONS
        )
    return loss, score, stats


def loss_backward(
    grad_loss: Tensor | None, grad_score: Tensor | None, members: Tensor, weights: Tensor, bias: Tensor,
    mos: Tensor, mask: Tensor | None, stats: Tensor, need_members: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradient of members (empty unless needed) in their dtype; of weights and intercept together, [M + 1] in fp32."""
    rows, columns = members.shape
    cut = tile(columns)
    blocks = triton.cdiv(rows, cut.rows)
    grad_members = members.new_empty(members.shape if need_members else (0, columns))
    partials = members.new_empty((columns + 1, blocks), dtype=torch.float32)
    sums = members.new_empty(columns + 1, dtype=torch.float32)
    flags = _flags(mask, members)
    with on_device(members):
        loss_grad_kernel[(blocks,)](
            members, weights, bias, mos, flags, stats, stats if grad_loss is None else grad_loss,
            stats if grad_score is None else grad_score, grad_members, partials, rows, blocks, *_strides(members),
            weights.stride(0), mos.stride(0), flags.stride(0), 0 if grad_score is None else grad_score.stride(0),
            M=columns, M_PAD=cut.columns, BLOCK=cut.rows, CONTIGUOUS=members.is_contiguous(),
            HAS_MASK=mask is not None, HAS_LOSS=grad_loss is not None, HAS_SCORE=grad_score is not None,
            HAS_MEMBERS=need_members, INTERPRET=INTERPRETED, num_warps=cut.warps, **OPTIONS,
        )  # fmt: skip
        sum_kernel[(columns + 1,)](partials, sums, blocks, CHUNK=SUM_BLOCK, num_warps=4, **OPTIONS)
    return grad_members, sums


def _flags(mask: Tensor | None, members: Tensor) -> Tensor:
    """The mask as bytes, or, where there is none and the kernel will not look, some tensor of its place."""
    return members.new_empty(1, dtype=torch.uint8) if mask is None else mask.view(torch.uint8)
