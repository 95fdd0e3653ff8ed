"""A file of C that is loaded with ctypes, run under the address and undefined-behaviour sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest


def compiler(source: Path) -> list[str]:
    """The command of the C compiler; without one the test is skipped."""
    found = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
    if not shutil.which(found[0]):
        pytest.skip(f"there is no C compiler: {source.name} is not compiled and tested here")
    return found


def check(source: Path, library: Path, code: str, tests: Path) -> None:
    """Compile `source` as `library` and run `code`, which prints "ran" at its end.

    Its first argument is a name beside the library, for a module's `__file__`; it can import from `tests`.
    """
    command = compiler(source)
    runtime = subprocess.run([*command, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    if not Path(preload := runtime.stdout.strip()).is_absolute():
        pytest.skip("the C compiler has no address sanitizer")
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run([*command, "-g", "-O1", "-fPIC", "-shared", *sanitize, str(source), "-o", str(library)], check=True)
    environment = {
        **os.environ,
        "LD_PRELOAD": preload,
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": os.pathsep.join(map(str, (tests.parents[1], tests, tests.parent / "support"))),
        "PYTHONMALLOC": "malloc",
    }
    run = [sys.executable, "-c", code, str(library.with_name("module.py"))]
    ran = subprocess.run(run, env=environment, capture_output=True, text=True)
    assert ran.stdout == "ran\n", ran.stderr[-3000:]
