"""A score file that somebody gives us, read once by another process: HDF5 can hang or crash on a damaged one.

HDF5 is C and trusts what it reads; fuzzing has found files on which it never comes back. So a file that this
program did not just write is tried out first, where that costs nothing but a moment.
"""

from __future__ import annotations

import os
import signal
import subprocess

from metaqap_fast import child
from metaqap_fast.errors import MetaqapError

SECONDS = 30.0  # and one for each megabyte
_CODE = """
import sys
from metaqap_fast.scores.merge import chunks
for _ in chunks(sys.argv[1]): pass
"""


def try_out(path: str | os.PathLike[str]) -> None:
    """Read a score file elsewhere. What is wrong with it in an orderly way is left to the real reader.

    Raises:
        MetaqapError: reading it does not end, or ends the process.
    """
    try:
        seconds = SECONDS + os.stat(path).st_size / 1e6
    except OSError:
        return
    nothing = subprocess.DEVNULL
    process = subprocess.Popen(child.command(_CODE, os.fspath(path)), stdin=nothing, stdout=nothing, stderr=nothing)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        raise MetaqapError(f"{path} is damaged: HDF5 has not read it in {seconds:.0f} seconds") from None
    finally:
        child.end([process])
    if code < 0:
        raise MetaqapError(f"{path} is damaged: HDF5 crashes on it ({signal.Signals(-code).name})")
