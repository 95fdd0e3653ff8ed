"""A score file that somebody gives us, read once by another process: HDF5 can hang or crash on a damaged one.

HDF5 is C and trusts what it reads; fuzzing has found files on which it never comes back. So a file that this
program did not just write is tried out first, where that costs nothing but a moment.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from metaqap_fast.errors import MetaqapError

SECONDS = 30.0  # and one for each megabyte
_CODE = (
    "import sys; sys.path[:] = sys.argv[2].split(chr(0x1f))\n"
    "from metaqap_fast.scores.merge import chunks\n"
    "for _ in chunks(sys.argv[1]): pass"
)


def try_out(path: str | os.PathLike[str]) -> None:
    """Read a score file elsewhere. What is wrong with it in an orderly way is left to the real reader.

    Raises:
        MetaqapError: reading it does not end, or ends the process.
    """
    try:
        seconds = SECONDS + os.stat(path).st_size / 1e6
    except OSError:
        return
    modules = "\x1f".join(str(Path(entry).absolute()) for entry in sys.path)
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _CODE, os.fspath(path), modules],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise MetaqapError(f"{path} is damaged: HDF5 has not read it in {seconds:.0f} seconds") from None
    if done.returncode < 0:
        raise MetaqapError(f"{path} is damaged: HDF5 crashes on it ({signal.Signals(-done.returncode).name})")
