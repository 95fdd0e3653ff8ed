"""Instructions that a process retires, counted by the CPU, where the kernel and the machine allow it.

perf_event_open(2) by hand: one counter of user-space instructions for this process and the threads and processes that
it starts afterwards.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_SYSCALL = {"x86_64": 298, "aarch64": 241}
_HARDWARE, _INSTRUCTIONS = 0, 1
SOFTWARE, TASK_CLOCK = 1, 1  # a clock that needs no counter in the CPU: nanoseconds that ran
_INHERIT, _NO_KERNEL, _NO_HYPERVISOR = 1 << 1, 1 << 5, 1 << 6


@dataclass(slots=True)
class Count:
    """`value` is None where nothing counts; `reason` says why."""

    value: int | None = None
    reason: str = ""


@contextmanager
def counted(kind: int = _HARDWARE, event: int = _INSTRUCTIONS) -> Iterator[Count]:
    """Count during the block; the result is complete when it has ended."""
    count = Count()
    number = _SYSCALL.get(platform.machine())
    if number is None:
        count.reason = f"not known for {platform.machine()}"
        yield count
        return
    # struct perf_event_attr: type, size, config, period, sample_type, read_format, flags; the rest is 0.
    attributes = struct.pack("=IIQQQQQ", kind, 128, event, 0, 0, 0, _INHERIT | _NO_KERNEL | _NO_HYPERVISOR)
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(number, ctypes.create_string_buffer(attributes, 128), 0, -1, -1, 0)
    if fd < 0:
        count.reason = os.strerror(ctypes.get_errno())
        yield count
        return
    try:
        yield count
        count.value = struct.unpack("=Q", os.read(fd, 8))[0]
    finally:
        os.close(fd)
