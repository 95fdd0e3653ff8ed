"""What a piece of work costs: CPU seconds, peak memory and energy of a process and its children."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaqap_fast.bench.idle import tree, tree_seconds

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True, slots=True)
class Usage:
    """Counters at one moment; `joules` is None where no meter can be read, `meter` says why or which."""

    cpu_seconds: float
    read_bytes: int  # asked of the kernel by read calls, from cache or disk
    written_bytes: int
    joules: float | None
    meter: str


def read() -> Usage:
    """Of this process and its living descendants."""
    pids = tree(os.getpid())
    counts = [_io(pid) for pid in pids]
    joules, meter = energy()
    return Usage(tree_seconds(os.getpid()), sum(c[0] for c in counts), sum(c[1] for c in counts), joules, meter)


def spent(before: Usage, after: Usage) -> dict[str, Any]:
    """The difference, for a sample."""
    known = before.joules is not None and after.joules is not None
    return {
        "cpu_seconds": after.cpu_seconds - before.cpu_seconds,
        "read_bytes": after.read_bytes - before.read_bytes,
        "written_bytes": after.written_bytes - before.written_bytes,
        "joules": (after.joules or 0) - (before.joules or 0) if known else None,
        "meter": after.meter,
    }


def _io(pid: int) -> tuple[int, int]:
    with suppress(OSError):
        fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
        return int(fields["rchar"]), int(fields["wchar"])
    return 0, 0


def peak_mb() -> float:
    """Largest resident memory so far of this process and its living descendants, each at its own peak, in MiB.

    Pages that two of them share count in both.
    """
    total = 0
    for pid in tree(os.getpid()):
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    total += int(line.split()[1])
    return total / 1024


def energy(root: Path = POWERCAP) -> tuple[float | None, str]:
    """Joules of the CPU packages (RAPL) and the GPUs (NVML) since some moment, and what was read or why nothing.

    RAPL's counters wrap around after hours; a difference that does is negative and plain to see.
    """
    total, meters, reasons = 0.0, [], []
    zones = sorted(root.glob("intel-rapl:?")) if root.is_dir() else []
    if not zones:
        reasons.append("no RAPL on this machine")
    try:
        total += sum(int((zone / "energy_uj").read_text()) for zone in zones) / 1e6
        meters += ["RAPL"] if zones else []
    except OSError as error:
        reasons.append(f"RAPL: {error.strerror}")
    gpus, reason = _nvml()
    if gpus is None:
        reasons.append(reason)
    else:
        total += gpus
        meters.append("NVML")
    return (total, " + ".join(meters)) if meters else (None, "; ".join(reasons))


def _nvml() -> tuple[float | None, str]:
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None, "no NVIDIA driver"
    if library.nvmlInit_v2():
        return None, "NVML does not start"
    count, total = ctypes.c_uint(), 0.0
    library.nvmlDeviceGetCount_v2(ctypes.byref(count))
    for index in range(count.value):
        device, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
        library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device))
        if library.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(millijoules)):
            return None, "NVML: this GPU has no energy counter"
        total += millijoules.value / 1e3
    return total, ""
