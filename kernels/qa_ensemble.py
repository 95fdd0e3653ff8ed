"""Meta-ensemble and quality-aware loss: the operators and the calls.

The operators are opaque to the compiler on purpose: torch.compile and torch.export carry them as one node, and what
runs is the launch below, with its pinned FP fusion, so that compiled and eager scores are the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metaqap_fast.kernels import checks
from metaqap_fast.kernels import qa_ensemble_torch as reference
from metaqap_fast.kernels.launch import is_interpreted, triton_module
from metaqap_fast.kernels.stats import STATS


def combine(
    members: Tensor,
    weights: Tensor,
    bias: Tensor | float,
    mask: Tensor | None = None,
    impl: str = "triton",
    *,
    check: bool = True,
) -> tuple[Tensor, Tensor]:
    """Score and spread of each image, from its members' predictions and the meta-learner.

        score  = members @ weights + bias
        spread = sqrt(sum_m |w_m| (p_m - score)^2 / sum_m |w_m|), 0 where all weights are 0

    Formula: `metaqap_fast.model.meta`, whose clipping and calibration are not applied here. Differentiable in members,
    weights and bias; where the spread is 0 its gradient is defined as 0.

    Args:
        members: [B, M] predictions on the MOS scale, B >= 1, 1 <= M <= 16; fp16, bf16 or fp32 (with impl="torch" also
            fp64), of any strides, which are followed, not copied.
        weights: [M] coefficients, of any of these dtypes.
        bias: the intercept, a number or a 0-dimensional (or one-element) tensor.
        mask: optional bool [B], False for failed images. Such a row may hold NaN, and then its score is NaN.
        impl: "triton" for the operator, which is the kernel on a GPU and fp64 torch on a CPU, or "torch" for plain
            differentiable torch.
        check: raise on NaN. On a GPU this makes the host wait for the kernel; False, a graph capture and (with
            impl="torch") a compiler's trace do not look, and the row's score is NaN.

    Returns:
        score [B] and spread [B] in the units of the members, fp32 (fp64 for fp64 inputs).

    Raises:
        ValueError: a wrong shape, dtype or device, more than 16 members, or a NaN or infinite prediction in an unmasked
            row; the message begins with the argument's name.
        MetaqapError: Triton is missing and the tensors are on a GPU.
    """
    bias = checks.ensemble(members, weights, bias, impl)
    checks.row_mask(mask, members.shape[0], members)
    if impl == "triton":
        score, spread = torch.ops.metaqap_fast.combine(members, weights, bias, mask, check)
        return score, spread
    if check and may_look(members):
        checks.finite(mask, members=members, weights=weights, bias=bias)
    return reference.combine(members, weights, bias)


def quality_aware_loss(
    members: Tensor,
    weights: Tensor,
    bias: Tensor | float,
    mos: Tensor,
    l1: float = 0.5,
    l2: float = 0.5,
    mask: Tensor | None = None,
    impl: str = "triton",
    *,
    check: bool = True,
) -> tuple[Tensor, Tensor]:
    """MetaQAP's quality-aware loss of the ensemble's scores, arXiv 2506.16601.

        score = members @ weights + bias
        loss  = l1/2 mean((mos - score)^2) + l2 (1 - pearson(softmax(score), softmax(mos)))

    over the unmasked rows; softmax over the batch. MOS should be scaled to [0, 1]: for 0..100 the second term sees
    little but the best image. Any other scale is computed without overflow; in fp32 the error of loss and gradients is
    below 1e-5 of the largest (1e-4 of the gradient where softmax leaves a single image).

    Defined values: r = 0, without gradient, where the scores or the MOS do not vary (one row, or exp(y) within a
    relative standard deviation of 1e-12); the loss is 0, without gradient, where no row is unmasked.
    Differentiable once in members, weights and bias; not in mos.

    Args:
        members: [B, M] predictions on the MOS scale, see `combine`.
        weights: [M] coefficients.
        bias: the intercept, a number or a 0-dimensional (or one-element) tensor.
        mos: [B] mean opinion scores, in the units of the score.
        l1: weight of the squared error.
        l2: weight of the correlation.
        mask: optional bool [B], False for rows to leave out: failed (members may be NaN) or unlabelled (mos may be).
            Such a row still gets its score, and a gradient only through that score.
        impl: "triton" for the operator, which is the kernels on a GPU and fp64 torch on a CPU, or "torch" for plain
            differentiable torch.
        check: raise on NaN. On a GPU this makes the host wait for the forward kernels; False, a graph capture and
            (with impl="torch") a compiler's trace do not look, and the loss and its gradients are NaN.

    Returns:
        loss, 0-dimensional, and score [B], fp32 (fp64 for fp64 inputs).

    Raises:
        ValueError: a wrong shape, dtype or device, more than 16 members, or a NaN or infinite value in an unmasked row;
            the message begins with the argument's name.
        MetaqapError: Triton is missing and the tensors are on a GPU.
    """
    bias = checks.ensemble(members, weights, bias, impl)
    checks.mos(mos, members.shape[0], members, impl)
    checks.row_mask(mask, members.shape[0], members)
    l1, l2 = float(l1), float(l2)
    if impl == "triton":
        loss, score, _ = torch.ops.metaqap_fast.quality_aware_loss(members, weights, bias, mos, mask, l1, l2, check)
        return loss, score
    if check and may_look(members):
        checks.finite(mask, members=members, weights=weights, bias=bias, mos=mos)
    return reference.quality_aware_loss(members, weights, bias, mos, l1, l2, mask)


def may_look(tensor: Tensor) -> bool:
    """Whether the host may read values: not while a compiler traces or a CUDA graph is captured."""
    if torch.compiler.is_compiling():
        return False
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def _combine_kernels(
    members: Tensor, weights: Tensor, bias: Tensor, mask: Tensor | None, check: bool
) -> tuple[Tensor, Tensor]:
    score, spread, bad = triton_module("qa_ensemble_launch").combine(members, weights, bias, mask)
    if check and may_look(members) and bool(bad.any()):
        checks.finite(mask, members=members, weights=weights, bias=bias)
        raise ValueError("members: a score is too large for fp64")
    return score, spread


_combine = torch.library.custom_op("metaqap_fast::combine", _combine_kernels, mutates_args=(), device_types="cuda")


@_combine.register_kernel("cpu")
def _combine_cpu(
    members: Tensor, weights: Tensor, bias: Tensor, mask: Tensor | None, check: bool
) -> tuple[Tensor, Tensor]:
    if is_interpreted():
        return _combine_kernels(members, weights, bias, mask, check)
    if check:
        checks.finite(mask, members=members, weights=weights, bias=bias)
    score, spread = reference.combine(members.double(), weights.double(), bias.double())
    return score.float(), spread.float()


@_combine.register_fake
def _combine_fake(
    members: Tensor, weights: Tensor, bias: Tensor, mask: Tensor | None, check: bool
) -> tuple[Tensor, Tensor]:
    score = members.new_empty(members.shape[0], dtype=torch.float32)
    return score, torch.empty_like(score)


def _combine_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.set_materialize_grads(False)


def _combine_backward(ctx: Any, grad_score: Tensor | None, grad_spread: Tensor | None) -> tuple[Tensor | None, ...]:
    members, weights, bias = ctx.saved_tensors
    if grad_score is None:
        grad_score = members.new_zeros(members.shape[0], dtype=torch.float32)
    grads = reference.spread_backward(grad_score, grad_spread, members, weights, bias)
    p, w, b = (grad.to(value.dtype) for grad, value in zip(grads, (members, weights, bias), strict=True))
    return p, w, b, None, None


_combine.register_autograd(_combine_backward, setup_context=_combine_setup)


def _loss_kernels(
    members: Tensor,
    weights: Tensor,
    bias: Tensor,
    mos: Tensor,
    mask: Tensor | None,
    l1: float,
    l2: float,
    check: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    forward = triton_module("qa_ensemble_launch").loss_forward
    loss, score, stats = forward(members, weights, bias, mos, mask, l1, l2)
    _refuse_nan(members, weights, bias, mos, mask, stats, check)
    return loss, score, stats


_loss = torch.library.custom_op("metaqap_fast::quality_aware_loss", _loss_kernels, mutates_args=(), device_types="cuda")


@_loss.register_kernel("cpu")
def _loss_cpu(
    members: Tensor,
    weights: Tensor,
    bias: Tensor,
    mos: Tensor,
    mask: Tensor | None,
    l1: float,
    l2: float,
    check: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    if is_interpreted():
        return _loss_kernels(members, weights, bias, mos, mask, l1, l2, check)
    loss, score, stats = reference.loss_forward(members, weights, bias, mos, mask, l1, l2)
    _refuse_nan(members, weights, bias, mos, mask, stats, check)
    return loss, score, stats


def _refuse_nan(
    members: Tensor, weights: Tensor, bias: Tensor, mos: Tensor, mask: Tensor | None, stats: Tensor, check: bool
) -> None:
    """One number is read back; only when it says so are the arguments searched for the one to name."""
    if check and may_look(members) and bool(stats[0] > 0):
        checks.finite(mask, members=members, weights=weights, bias=bias, mos=mos)
        raise ValueError("members: a score is too large for fp64")


@_loss.register_fake
def _loss_fake(
    members: Tensor,
    weights: Tensor,
    bias: Tensor,
    mos: Tensor,
    mask: Tensor | None,
    l1: float,
    l2: float,
    check: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    wide = members.new_empty((), dtype=torch.float32)
    return wide, wide.new_empty(members.shape[0]), wide.new_empty(STATS + members.shape[1], dtype=torch.float64)


def _loss_grad_kernels(
    grad_loss: Tensor | None,
    grad_score: Tensor | None,
    members: Tensor,
    weights: Tensor,
    bias: Tensor,
    mos: Tensor,
    mask: Tensor | None,
    stats: Tensor,
    need_members: bool,
) -> tuple[Tensor, Tensor]:
    backward = triton_module("qa_ensemble_launch").loss_backward
    grad_members, sums = backward(grad_loss, grad_score, members, weights, bias, mos, mask, stats, need_members)
    return grad_members, sums


_loss_grad = torch.library.custom_op(
    "metaqap_fast::quality_aware_loss_backward", _loss_grad_kernels, mutates_args=(), device_types="cuda"
)


@_loss_grad.register_kernel("cpu")
def _loss_grad_cpu(
    grad_loss: Tensor | None,
    grad_score: Tensor | None,
    members: Tensor,
    weights: Tensor,
    bias: Tensor,
    mos: Tensor,
    mask: Tensor | None,
    stats: Tensor,
    need_members: bool,
) -> tuple[Tensor, Tensor]:
    run = _loss_grad_kernels if is_interpreted() else reference.loss_backward
    grad_members, sums = run(grad_loss, grad_score, members, weights, bias, mos, mask, stats, need_members)
    return grad_members, sums


@_loss_grad.register_fake
def _loss_grad_fake(
    grad_loss: Tensor | None,
    grad_score: Tensor | None,
    members: Tensor,
    weights: Tensor,
    bias: Tensor,
    mos: Tensor,
    mask: Tensor | None,
    stats: Tensor,
    need_members: bool,
) -> tuple[Tensor, Tensor]:
    rows, columns = members.shape
    grad_members = members.new_empty((rows if need_members else 0, columns))
    return grad_members, members.new_empty(columns + 1, dtype=torch.float32)


def _loss_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    members, weights, bias, mos, mask = inputs[:5]
    ctx.save_for_backward(members, weights, bias, mos, mask, output[2])
    ctx.set_materialize_grads(False)  # zeros [B] for a score nobody differentiates would be read for nothing


def _loss_backward(
    ctx: Any, grad_loss: Tensor | None, grad_score: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    members, weights, bias, mos, mask, stats = ctx.saved_tensors
    need = ctx.needs_input_grad
    if grad_loss is None and grad_score is None:
        return (None,) * 8
    grad_members, sums = torch.ops.metaqap_fast.quality_aware_loss_backward(
        grad_loss, grad_score, members, weights, bias, mos, mask, stats, need[0]
    )
    columns = members.shape[1]
    grad_weights = sums[:columns].to(weights.dtype) if need[1] else None
    grad_bias = sums[columns].to(bias.dtype) if need[2] else None
    return (grad_members if need[0] else None, grad_weights, grad_bias, None, None, None, None, None)


_loss.register_autograd(_loss_backward, setup_context=_loss_setup)
