"""Where an operator runs: Triton kernels on a GPU, torch on a CPU, or the kernels in Triton's interpreter for tests."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch

from metaqap_fast.errors import MetaqapError

_INTERPRETED: ContextVar[bool] = ContextVar("metaqap_fast_kernels_interpreted", default=False)


@contextmanager
def interpreted() -> Iterator[None]:
    """Run the Triton kernels themselves on CPU tensors, through Triton's interpreter: for tests, slow.

    TRITON_INTERPRET=1 must have been set when Triton and the kernels were first imported.
    """
    token = _INTERPRETED.set(True)
    try:
        yield
    finally:
        _INTERPRETED.reset(token)


def is_interpreted() -> bool:
    """True inside `interpreted()`: CPU tensors go to the Triton kernels."""
    return _INTERPRETED.get()


def triton_module(name: str) -> Any:
    """The module of this package that holds the Triton kernels `name`, imported on first use.

    A CPU needs none of them, so torch without Triton is enough there.

    Raises:
        MetaqapError: Triton is not installed.
    """
    try:
        return importlib.import_module(f"metaqap_fast.kernels.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "triton":
            raise
        raise MetaqapError("the GPU kernels need triton: pip install 'metaqap-fast[gpu]'") from None


def on_device(tensor: torch.Tensor) -> AbstractContextManager[Any]:
    """Makes the tensor's GPU the current one, which is where Triton launches."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
