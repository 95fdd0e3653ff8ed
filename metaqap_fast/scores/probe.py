"""A score file that somebody gives us, read once by another process: HDF5 can hang or crash on a damaged one.

HDF5 is C and trusts what it reads; fuzzing has found files on which it never comes back. So a file that this
program did not just write is tried out first, where that costs nothing but a moment.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from itertools import islice

from metaqap_fast import child
from metaqap_fast.errors import MetaqapError

SECONDS = 30.0  # and one for each megabyte
TOGETHER = 500  # files read by one process: to start it takes as long as to read most of them
_CODE = """
import sys
from metaqap_fast.scores.merge import chunks
for path in sys.argv[1:]:
    try:
        for _ in chunks(path): pass
    except Exception:
        pass
"""


def try_out(*paths: str | os.PathLike[str]) -> None:
    """Read score files elsewhere. What is wrong with them in an orderly way is left to the real reader.

    Raises:
        MetaqapError: reading one does not end, or ends the process.
    """
    sizes = {path: size for path in [os.fspath(path) for path in paths] if (size := _size(path)) is not None}
    for start in range(0, len(sizes), TOGETHER):
        some = dict(islice(sizes.items(), start, start + TOGETHER))
        if (why := _read(some)) and len(some) == 1:
            raise MetaqapError(f"{next(iter(some))} is damaged: HDF5 {why}")
        if why:
            for path in some:  # which of them it is
                try_out(path)


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def _read(sizes: Mapping[str, int]) -> str:
    """What HDF5 does to a process that reads these files; empty if it is all right."""
    seconds = SECONDS + sum(sizes.values()) / 1e6
    nothing = subprocess.DEVNULL
    command = child.command(_CODE, *sizes)
    process = subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return f"has not read it in {seconds:.0f} seconds"
    finally:
        child.end([process])
    return f"crashes on it ({signal.Signals(-code).name})" if code < 0 else ""
