"""An NVIDIA driver for a child process: `fake_cuda.c`, compiled to where the dynamic loader looks first."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def fake_driver(folder: Path, **settings: str) -> dict[str, str]:
    """The environment in which `libcuda.so.1` is the fake."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: the fake driver cannot be made")
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(__file__).with_name("fake_cuda.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(folder / "libcuda.so.1"), str(source)], check=True)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("LD_LIBRARY_PATH")]))
    hidden = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    return {**hidden, "LD_LIBRARY_PATH": path, **settings}
