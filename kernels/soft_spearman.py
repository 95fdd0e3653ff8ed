"""One minus the correlation of soft ranks: the operator and the call."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from metaqap_fast.kernels import checks
from metaqap_fast.kernels import soft_spearman_torch as reference
from metaqap_fast.kernels.launch import is_interpreted, triton_module
from metaqap_fast.kernels.qa_ensemble import may_look
from metaqap_fast.kernels.stats import SPEARMAN_STATS


def soft_spearman(
    score: Tensor,
    mos: Tensor,
    temperature: float,
    mask: Tensor | None = None,
    impl: str = "triton",
    *,
    check: bool = True,
) -> Tensor:
    """One minus the Pearson correlation of the soft ranks of scores and of MOS: the ranking loss of arXiv 2506.16601.

        soft rank of i = sum_j sigmoid((x_i - x_j) / temperature),   j over the unmasked rows, i among them

    The paper's text describes a ranking term that its published code does not have; this is that term. The smaller the
    temperature, the closer to 1 - SROCC, and the fewer pairs have a gradient. Work grows with B^2, memory with B;
    tested to B = 8,192.

    Defined values: the correlation is 0, without gradient, where the scores or the MOS are all tied (or one row); the
    loss is 0, without gradient, where no row is unmasked. Differentiable once in score; not in mos.

    Args:
        score: [B] scores, B >= 1; fp16, bf16 or fp32 (with impl="torch" also fp64), of any stride.
        mos: [B] mean opinion scores, in the units of the score.
        temperature: between 1e-30 and 1e30, in the units of the score: pairs that differ by much more count as ordered.
        mask: optional bool [B], False for rows to leave out, which may hold NaN.
        impl: "triton" for the operator, which is the kernels on a GPU and fp64 torch on a CPU, or "torch" for plain
            differentiable torch, which holds B x B.
        check: raise on NaN. On a GPU this makes the host wait for the forward kernels; False, a graph capture and
            (with impl="torch") a compiler's trace do not look, and the loss and its gradient are NaN.

    Returns:
        The loss, 0-dimensional, from 0 to 2, fp32 (fp64 for fp64 inputs).

    Raises:
        ValueError: a wrong shape, dtype, device or temperature, or a NaN or infinite value in an unmasked row; the
            message begins with the argument's name.
        MetaqapError: Triton is missing and the tensors are on a GPU.
    """
    checks.tensor("score", score, 1, checks.float_dtypes(impl))
    checks.device("score", score)
    rows = score.shape[0]
    if rows < 1:
        raise ValueError("score: expected at least one row")
    checks.mos(mos, rows, score, impl)
    checks.row_mask(mask, rows, score)
    temperature = float(temperature)
    if not (math.isfinite(temperature) and 1e-30 <= temperature <= 1e30):
        raise ValueError(f"temperature: expected from 1e-30 to 1e30, got {temperature}")
    if impl == "triton":
        loss: Tensor = torch.ops.metaqap_fast.soft_spearman(score, mos, temperature, mask, check)[0]
        return loss
    if check and may_look(score):
        checks.finite(mask, score=score, mos=mos)
    return reference.soft_spearman(score, mos, temperature, mask)


def _spearman_kernels(
    score: Tensor, mos: Tensor, temperature: float, mask: Tensor | None, check: bool
) -> tuple[Tensor, Tensor, Tensor]:
    loss, ranks, stats = triton_module("soft_spearman_triton").forward(score, mos, temperature, mask)
    if check and may_look(score) and bool(stats[0] > 0):
        checks.finite(mask, score=score, mos=mos)
    return loss, ranks, stats


_spearman = torch.library.custom_op(
    "metaqap_fast::soft_spearman", _spearman_kernels, mutates_args=(), device_types="cuda"
)


@_spearman.register_kernel("cpu")
def _spearman_cpu(
    score: Tensor, mos: Tensor, temperature: float, mask: Tensor | None, check: bool
) -> tuple[Tensor, Tensor, Tensor]:
    if is_interpreted():
        return _spearman_kernels(score, mos, temperature, mask, check)
    if check:
        checks.finite(mask, score=score, mos=mos)
    return reference.forward(score, mos, temperature, mask)


@_spearman.register_fake
def _spearman_fake(
    score: Tensor, mos: Tensor, temperature: float, mask: Tensor | None, check: bool
) -> tuple[Tensor, Tensor, Tensor]:
    loss = score.new_empty((), dtype=torch.float32)
    return loss, loss.new_empty((3, score.shape[0])), loss.new_empty(SPEARMAN_STATS, dtype=torch.float64)


def _spearman_grad_kernels(
    grad_loss: Tensor, score: Tensor, temperature: float, mask: Tensor | None, ranks: Tensor, stats: Tensor
) -> Tensor:
    grad: Tensor = triton_module("soft_spearman_triton").backward(grad_loss, score, temperature, mask, ranks, stats)
    return grad


_spearman_grad = torch.library.custom_op(
    "metaqap_fast::soft_spearman_backward", _spearman_grad_kernels, mutates_args=(), device_types="cuda"
)


@_spearman_grad.register_kernel("cpu")
def _spearman_grad_cpu(
    grad_loss: Tensor, score: Tensor, temperature: float, mask: Tensor | None, ranks: Tensor, stats: Tensor
) -> Tensor:
    if is_interpreted():
        return _spearman_grad_kernels(grad_loss, score, temperature, mask, ranks, stats)
    return reference.backward(grad_loss, score, temperature, mask, ranks, stats)


@_spearman_grad.register_fake
def _spearman_grad_fake(
    grad_loss: Tensor, score: Tensor, temperature: float, mask: Tensor | None, ranks: Tensor, stats: Tensor
) -> Tensor:
    return score.new_empty(score.shape[0])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    score, _, ctx.temperature, mask, _ = inputs
    ctx.save_for_backward(score, mask, output[1], output[2])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_loss: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_loss is None:
        return (None,) * 5
    score, mask, ranks, stats = ctx.saved_tensors
    grad = torch.ops.metaqap_fast.soft_spearman_backward(grad_loss, score, ctx.temperature, mask, ranks, stats)
    return grad, None, None, None, None


_spearman.register_autograd(_backward, setup_context=_setup)
