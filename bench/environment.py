"""What a run ran on: enough to compare two runs, nothing that names the machine or its user."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from metaqap_fast import __version__

LIBRARIES = (
    "numpy", "h5py", "openvino", "nvidia-dali-cuda130", "torch", "torchvision", "triton", "onnx", "onnxruntime",
    "tensorrt-cu13", "tensorrt-rtx-cu13-libs", "pillow", "simplejpeg", "brisque",
)  # fmt: skip


def describe() -> dict[str, Any]:
    """CPU, memory, driver, library versions and the state of the checkout."""
    cpu = _cpu()
    return {
        "program_version": __version__,
        **checkout(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu": cpu.get("model name", "unknown"),
        "cpu_flags": sorted(cpu.get("flags", "").split()),
        "cpus": os.cpu_count(),
        "cpus_allowed": len(os.sched_getaffinity(0)),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "nvidia_driver": _read("/sys/module/nvidia/version"),
        "gpus": _gpus(),
        "libraries": versions(),
    }


def brief() -> dict[str, Any]:
    """Of `describe`, what names the program and the machine in a line or two."""
    return {name: value for name, value in describe().items() if name in ("program_version", "commit", "cpu", "cpus")}


def versions(names: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Versions of those that are installed."""
    found = {}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def checkout(root: Path | None = None) -> dict[str, Any]:
    """Commit and whether files differ from it; both None outside a checkout."""
    root = root or Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str | None:
        with suppress(OSError, subprocess.CalledProcessError):
            command = ["git", "-C", str(root), *arguments]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        return None

    top = git("rev-parse", "--show-toplevel")
    if top is None or Path(top) != root:  # installed somewhere inside another project
        return {"commit": None, "dirty": None}
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}


def _cpu() -> dict[str, str]:
    text = _read("/proc/cpuinfo") or ""
    lines = [line.partition(":") for line in text.partition("\n\n")[0].splitlines()]
    return {name.strip(): value.strip() for name, _, value in lines}


def _gpus() -> list[str]:
    from metaqap_fast.engine import cuda

    with suppress(cuda.NoGpu):
        return [gpu.name for gpu in cuda.gpus()]
    return []


def _read(path: str) -> str | None:
    with suppress(OSError):
        return Path(path).read_text().strip()
    return None
