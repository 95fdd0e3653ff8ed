"""Where an operator runs: Triton kernels on a GPU, PyTorch on a CPU, Triton's interpreter when that is asked for."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op, triton_op, wrap_triton

from metaqap_fast.errors import MetaqapError

_HAS_TRITON = importlib.util.find_spec("triton") is not None
# Triton reads this when a kernel is defined; the interpreter then runs kernels on CPU tensors.
INTERPRETED = _HAS_TRITON and os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")


def uses_kernels(tensor: Tensor) -> bool:
    """Whether tensors like this one go to the Triton kernels.

    Raises:
        MetaqapError: they should, but triton is not installed.
    """
    if tensor.device.type == "cuda" and not _HAS_TRITON:
        raise MetaqapError("triton is not installed: pip install 'metaqap-fast[gpu]'")
    return INTERPRETED or tensor.device.type == "cuda"


def operator(name: str, body: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Register `body` as torch.ops.metaqap.<name>.

    A body with both ways in it, chosen by `uses_kernels`, is a `triton_op`: torch.compile sees the kernels or the
    PyTorch code, torch.export keeps the operator. Interpreted kernels cannot be traced; there the operator is opaque
    and `fake` tells the shapes of its results.
    """
    if _HAS_TRITON and not INTERPRETED:
        return triton_op(f"metaqap::{name}", body, mutates_args=())
    operation = custom_op(f"metaqap::{name}", body, mutates_args=())
    operation.register_fake(fake)
    return operation


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, num_warps: int, **constants: Any) -> None:
    """Run a kernel on the current stream of its tensors' device, or record it while torch.compile traces."""
    traceable = kernel if INTERPRETED else wrap_triton(kernel)
    if traceable is kernel:
        # Pinned, although the kernels are written so that it makes no difference (see `triton_math`).
        kernel[grid](*arguments, num_warps=num_warps, enable_fp_fusion=False, **constants)
    else:
        traceable[grid](*arguments, num_warps=num_warps, **constants)  # takes no other option


def buffer(shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """An output of a kernel; `as_dtype` brings it to its own dtype."""
    dtype = like.dtype if dtype is None else dtype
    # The interpreter rounds float32 to bfloat16 wrongly.
    stored = torch.float32 if INTERPRETED and dtype == torch.bfloat16 else dtype
    return torch.empty(shape, dtype=stored, device=like.device)


def as_dtype(output: Tensor, dtype: torch.dtype) -> Tensor:
    """Undo what `buffer` did for the interpreter; else nothing."""
    return output if output.dtype == dtype else output.to(dtype)
