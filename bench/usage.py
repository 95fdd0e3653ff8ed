"""What a piece of work costs: CPU seconds, peak memory and energy of a process and its children."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

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
    read_bytes = written_bytes = 0
    for process in tree():
        with suppress(psutil.Error):
            counts = process.io_counters()
            read_bytes += counts.read_chars
            written_bytes += counts.write_chars
    return Usage(tree_seconds(), read_bytes, written_bytes, *energy())


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


def peak_mb() -> float:
    """Largest resident memory so far of this process and its living descendants, each at its own peak, in MiB.

    Pages that two of them share count in both.
    """
    total = 0
    for process in tree():
        with suppress(OSError):  # by hand: psutil has what is resident now, not the peak
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
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
        import pynvml

        pynvml.nvmlInit()
        gpus = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu) for gpu in gpus) / 1e3, ""
    except ModuleNotFoundError:
        return None, "NVML: nvidia-ml-py is not installed"
    except pynvml.NVMLError as error:
        return None, f"NVML: {error}"
