"""Which NVIDIA GPUs this machine has, asked of the driver itself: no torch, no CUDA toolkit."""

from __future__ import annotations

import ctypes
import os
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaqap_fast.errors import MetaqapError, UsageError

MIN_CUDA = 13000  # of the driver; the GPU libraries are CUDA 13 builds
_NO_DEVICE = 100
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_CLOCK, _WIDTH = 36, 37  # CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE in kHz, _GLOBAL_MEMORY_BUS_WIDTH in bits
VISIBLE = "CUDA_VISIBLE_DEVICES"
_HIDDEN = ("", "-1", "none", "void", "NoDevFiles")  # what people and container runtimes write to hide all GPUs
_PRESENT = Path("/proc/driver/nvidia/gpus")  # an entry for each GPU of the machine, hidden or not


class NoGpu(MetaqapError):
    """There is no GPU that could be used; the message says why. `plain`: because the machine has none."""

    def __init__(self, message: str, plain: bool = False) -> None:
        super().__init__(message)
        self.plain = plain


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device: `capability` 90 is sm_90, `memory` in bytes. `uuid` is that of the GPU, or of its MIG slice.
    `bandwidth` is that of the memory, in bytes a second; 0 where the driver does not say.

    A slice is a device of its own, whose name ends in its size, such as `MIG 1g.10gb`.
    """

    index: int
    name: str
    capability: int
    memory: int
    uuid: str = ""
    bandwidth: float = 0.0

    @property
    def device(self) -> str:
        """As `--device` takes it."""
        return f"cuda:{self.index}"


def gpus(load: Callable[[str], Any] = ctypes.CDLL) -> list[Gpu]:
    """The GPUs, or MIG slices, that the driver shows to this process: those of `CUDA_VISIBLE_DEVICES`, in its order.

    Raises:
        NoGpu: no driver, a driver too old, no device, or a driver that does not start.
    """
    try:
        driver = load("libcuda.so.1")
    except OSError:
        raise NoGpu("no NVIDIA driver on this machine", plain=True) from None
    version = ctypes.c_int()
    if (code := driver.cuInit(0)) not in (0, _NO_DEVICE):
        raise NoGpu(f"the NVIDIA driver does not start (CUDA error {code}): restart the machine or reinstall it")
    driver.cuDriverGetVersion(ctypes.byref(version))
    if version.value < MIN_CUDA:
        have = f"{version.value // 1000}.{version.value % 1000 // 10}"
        raise NoGpu(f"the NVIDIA driver is too old: it has CUDA {have}, 13.0 is needed; install driver 580 or newer")
    count = ctypes.c_int()
    if code == _NO_DEVICE or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        raise _none_shown(os.environ.get(VISIBLE))
    return [_describe(driver, index) for index in range(count.value)]


def _none_shown(visible: str | None) -> NoGpu:
    """Why a driver that works shows no GPU; silence is only for who wants none or has none."""
    if visible is not None and visible.strip() not in _HIDDEN:
        listed = "`nvidia-smi -L` lists the GPUs and MIG slices that there are"
        return NoGpu(f"the NVIDIA driver knows no GPU of {VISIBLE}={visible}: {listed}")
    if visible is None and _PRESENT.is_dir() and any(_PRESENT.iterdir()):
        return NoGpu(
            "the NVIDIA driver shows no GPU to this process, although there is one: if MIG is on, it needs a slice "
            "(`nvidia-smi mig -lgi` lists them)"
        )
    return NoGpu("the NVIDIA driver shows no GPU to this process", plain=True)


def _describe(driver: Any, index: int) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    memory, name = ctypes.c_size_t(), ctypes.create_string_buffer(128)
    identity = (ctypes.c_ubyte * 16)()
    codes = [
        driver.cuDeviceGet(ctypes.byref(device), index),
        driver.cuDeviceGetName(name, 128, device),
        driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device),
        driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device),
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device),
        driver.cuDeviceGetUuid_v2(ctypes.byref(identity), device),
    ]
    if any(codes):
        raise NoGpu(f"cuda:{index} does not answer (CUDA error {max(codes)})")
    shown = name.value.decode(errors="replace")
    kind = "MIG" if " MIG " in shown else "GPU"
    whose = f"{kind}-{uuid.UUID(bytes=bytes(identity))}"
    return Gpu(index, shown, 10 * major.value + minor.value, memory.value, whose, _bandwidth(driver, device))


def _bandwidth(driver: Any, device: ctypes.c_int) -> float:
    clock, width = ctypes.c_int(), ctypes.c_int()
    asked = [(clock, _CLOCK), (width, _WIDTH)]
    if any(driver.cuDeviceGetAttribute(ctypes.byref(out), what, device) or out.value <= 0 for out, what in asked):
        return 0.0
    return 2.0 * clock.value * 1000 * width.value / 8  # two transfers a cycle


def parse_device(device: str) -> int | str:
    """`auto`, `cpu`, or the number of a GPU.

    Raises:
        UsageError: anything else.
    """
    if device in ("auto", "cpu"):
        return device
    found = re.fullmatch(r"cuda(?::(\d+))?", device)
    if found is None:
        raise UsageError(f"unknown device {device!r}: auto, cpu or cuda:N")
    return int(found[1] or 0)


def pick(device: int | str, found: list[Gpu]) -> Gpu:
    """The GPU of a `--device`; `auto` is the first.

    Raises:
        UsageError: a number that does not exist.
    """
    index = 0 if device == "auto" else device
    if isinstance(index, int) and index < len(found):
        return found[index]
    names = ", ".join(f"{gpu.device} ({gpu.name})" for gpu in found)
    whose = f"{VISIBLE} shows" if os.environ.get(VISIBLE) else "this machine has"
    raise UsageError(f"device cuda:{index} does not exist: {whose} {names}")
