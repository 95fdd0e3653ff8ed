"""The soft Spearman loss as a PyTorch operator.

`torch.ops.metaqap.soft_spearman` and `.soft_spearman_grad`: the kernels of `soft_spearman_triton` on a GPU, the PyTorch
code of `soft_spearman_reference` on a CPU.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from metaqap_fast.kernels import checks
from metaqap_fast.kernels import soft_spearman_reference as reference
from metaqap_fast.kernels.dispatch import as_dtype, buffer, launch, operator, uses_kernels

COLUMNS = 128
ROWS = 16  # of a program: 256 programs for 4,096 rows, enough to fill a GPU
FINISH_BLOCK = 1024
NUM_WARPS = 4
LEAST_TEMPERATURE = 1e-30  # its inverse is a float32


def soft_spearman(
    score: Tensor,
    mos: Tensor,
    temperature: float,
    mask: Tensor | None = None,
    impl: str = "triton",
    *,
    check: bool = True,
) -> Tensor:
    """One minus the Pearson correlation of the soft ranks of scores and of MOS.

        soft rank of i = sum_j sigmoid((x_i - x_j) / temperature)

    The ranking loss that the text of MetaQAP (arXiv 2506.16601) describes; towards temperature 0 it becomes one minus
    Spearman's correlation with mid-ranks for ties. Sums run over the unmasked rows. The correlation of a constant
    batch (one row; ranks with a standard deviation of at most 1e-9 times their number) is taken as 0 with gradient 0:
    the loss is 1. With every row masked it is 0.

    Differentiable in the scores; mos is taken as a constant. The same bits on every run. Time grows with B^2, memory
    with B; meant for B up to 8,192. `impl="torch"` holds [B, B].

    Args:
        score: [B] scores in any unit, float16, bfloat16 or float32; B >= 1; any stride.
        mos: [B] mean opinion scores, in a unit for which the same temperature suits, one of these dtypes.
        temperature: how far apart two values must be to count as ranked, in their unit; >= 1e-30.
        mask: [B] bool, True for rows that count; None for all. Scores and MOS of masked rows may be NaN.
        impl: "triton", kernels on a GPU and PyTorch on a CPU; or "torch", PyTorch everywhere, also in float64.
        check: look for NaN, which waits for the GPU; see `quality_aware_loss`.

    Returns:
        loss [] in [0, 2], float32 (float64 for float64).

    Raises:
        ValueError: a wrong shape, dtype, device or number, or a NaN or infinity in an unmasked row; the message begins
            with the argument's name.
    """
    checks.check_impl(impl)
    if not isinstance(score, Tensor) or score.ndim != 1 or score.shape[0] < 1:
        raise ValueError(f"score: shape {tuple(getattr(score, 'shape', ()))} is not [B] with B at least 1")
    if score.device.type not in ("cpu", "cuda"):
        raise ValueError(f"score: device {score.device} is neither cpu nor cuda")
    shape = (score.shape[0],)
    checks.check_floats("score", score, shape, score.device, impl)
    checks.check_floats("mos", mos, shape, score.device, impl)
    checks.check_mask(mask, shape, score.device)
    temperature = checks.check_number("temperature", temperature, LEAST_TEMPERATURE)
    mos = mos.detach()
    if impl == "torch":
        loss, bad = reference.soft_spearman(score, mos, temperature, mask)
    else:
        loss, _, stats = torch.ops.metaqap.soft_spearman(score, mos, mask, temperature)
        bad = stats[3:5]
    if check:
        checks.raise_unusable(bad, "score")
    return loss


# Optional[...] below: that is what PyTorch reads an operator's signature from.
def _forward(
    score: Tensor, mos: Tensor, mask: Optional[Tensor], temperature: float  # noqa: UP045
) -> tuple[Tensor, Tensor, Tensor]:
    if not uses_kernels(score):
        return reference.forward(score, mos, mask, temperature)
    from metaqap_fast.kernels import soft_spearman_triton as kernels

    rows = score.shape[0]
    ranks = buffer((2, rows), score, torch.float32)
    stats = buffer((reference.HEADER,), score, torch.float64)
    loss = buffer((), score, torch.float32)
    mask_pointer, mask_stride = (score, 0) if mask is None else (mask, mask.stride(0))
    strides = (score.stride(0), mos.stride(0), mask_stride)
    launch(
        kernels.rank_rows, (_programs(rows), 2),
        score, mos, mask_pointer, ranks, rows, *strides, 1 / temperature,
        MASKED=mask is not None, ROWS=ROWS, COLUMNS=COLUMNS, num_warps=NUM_WARPS,
    )  # fmt: skip
    launch(
        kernels.rank_finish, (1,),
        score, mos, mask_pointer, ranks, stats, loss, rows, *strides,
        MASKED=mask is not None, BLOCK=FINISH_BLOCK, num_warps=NUM_WARPS,
    )  # fmt: skip
    return loss, ranks, stats


def _forward_fake(
    score: Tensor, mos: Tensor, mask: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    ranks = score.new_empty((2, score.shape[0]), dtype=torch.float32)
    return ranks.new_empty(()), ranks, score.new_empty((reference.HEADER,), dtype=torch.float64)


def _backward(
    score: Tensor, mask: Optional[Tensor], ranks: Tensor, stats: Tensor, grad_loss: Tensor, temperature: float  # noqa: UP045
) -> Tensor:
    if not uses_kernels(score):
        return reference.backward(score, mask, ranks, stats, grad_loss, temperature)
    from metaqap_fast.kernels import soft_spearman_triton as kernels

    rows = score.shape[0]
    grad_score = buffer((rows,), score)
    mask_pointer, mask_stride = (score, 0) if mask is None else (mask, mask.stride(0))
    launch(
        kernels.rank_grad, (_programs(rows),),
        score, mask_pointer, ranks, stats, grad_loss, grad_score, rows, score.stride(0), mask_stride, 1 / temperature,
        MASKED=mask is not None, ROWS=ROWS, COLUMNS=COLUMNS, num_warps=NUM_WARPS,
    )  # fmt: skip
    return as_dtype(grad_score, score.dtype)


def _backward_fake(
    score: Tensor, mask: Tensor | None, ranks: Tensor, stats: Tensor, grad_loss: Tensor, temperature: float
) -> Tensor:
    return score.new_empty(score.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    score, _, mask, temperature = inputs
    ctx.save_for_backward(score, mask, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.temperature = temperature


def _autograd(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    score, mask, ranks, stats = ctx.saved_tensors
    grad = torch.ops.metaqap.soft_spearman_grad(score, mask, ranks, stats, grad_loss, ctx.temperature)
    return grad, None, None, None


def _programs(rows: int) -> int:
    return (rows + ROWS - 1) // ROWS


operator("soft_spearman", _forward, _forward_fake).register_autograd(_autograd, setup_context=_setup)
operator("soft_spearman_grad", _backward, _backward_fake)
