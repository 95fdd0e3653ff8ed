"""What an error of a GPU's libraries means: the device is lost, its memory is full, or neither.

CUDA reports errors late, wherever the host happens to look next, so both the decoder and the engine translate here.
Decided by type where the library has one (torch); the others have only words.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from metaqap_fast.errors import MetaqapError

PATIENCE = 60.0  # seconds that a batch may take; a GPU needs a hundredth of one
TICK = 0.002  # between two looks at an event
_CUDA_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation
_FULL = (
    "outofmemory", "out of memory", "out_of_memory", "mem_alloc_failed", "cudaerrormemoryallocation", "bad_alloc",
    "allocator_failure",
)  # fmt: skip
_LOST = (
    "cuda error", "cuda driver", "cuda runtime", "cuda failure", "cudaerror", "cuda_error", "nvml error",
    "device-side", "cublas", "cudnn_status",
)  # fmt: skip


class GpuLost(MetaqapError):
    """The GPU, or what drives it, stopped working in the middle of a run."""


class DecoderDisagrees(GpuLost):
    """A GPU's decoder gave pixels that are not those of the file, without saying so."""

    exit_code = 4


def out_of_memory(error: BaseException) -> bool:
    """Whether a library's error says that the device's memory is used up."""
    if isinstance(error, MemoryError) or _is(error, "OutOfMemoryError"):
        return True
    if _is(error, "AcceleratorError") and getattr(error, "error_code", None) == _CUDA_OUT_OF_MEMORY:
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _FULL)


def lost(error: BaseException) -> bool:
    """Whether a library's error says that the device, not the request, failed."""
    if out_of_memory(error):
        return False
    if _is(error, "AcceleratorError"):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _LOST)


def gpu_lost(device: str, error: BaseException) -> GpuLost:
    """What to tell a user, in one line."""
    return GpuLost(
        f"{device} stopped working: {first_line(error)}. Rows committed so far are safe; go on with --resume"
    )


def wait(event: Any, device: str, seconds: float = PATIENCE) -> None:
    """For a CUDA event, but not for ever: a GPU that has fallen off its bus may not even say so.

    Looks are counted, not seconds of a clock: while this process is stopped, no GPU is late.

    Raises:
        GpuLost: it has not come.
    """
    for _ in range(round(seconds / TICK)):
        if event.query():
            return
        time.sleep(TICK)
    raise silent(device, seconds)


def silent(device: str, seconds: float, what: str = "") -> GpuLost:
    """What to tell where nothing comes from a device any more."""
    return GpuLost(
        f"{device} has not answered for {seconds:.0f} seconds{what}. Rows committed so far are safe; go on with "
        "--resume, and if it happens again, score with --device cpu into another file"
    )


@contextmanager
def translated(device: str) -> Iterator[None]:
    """Errors of the device inside become `GpuLost` or, where its memory is full, `MetaqapError`; others stay.

    Args:
        device: its name, as a user knows it.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            raise MetaqapError(
                f"{device} has no memory left: {first_line(error)}. Rows committed so far are safe; free some and go "
                "on with --resume, or use a smaller --batch-size"
            ) from None
        if lost(error):
            raise gpu_lost(device, error) from None
        raise


@contextmanager
def starting(device: str) -> Iterator[None]:
    """The same before the first row: errors of the device become `GpuLost` that says that it cannot be used."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if lost(error) or out_of_memory(error):
            raise GpuLost(f"{device} cannot be used: {first_line(error)}") from None
        raise


def first_line(error: BaseException) -> str:
    """The first line of its message that says something."""
    lines = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _is(error: BaseException, name: str) -> bool:
    """By the name of its class, so that torch need not be imported."""
    return any(kind.__name__ == name for kind in type(error).__mro__)
