"""A run on one GPU in a process of its own: a library that crashes there takes down that process, and the other one,
which touches no GPU, says so.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from metaqap_fast import child, signals
from metaqap_fast.engine.choice import choose
from metaqap_fast.errors import MetaqapError

inside = False  # whether this is that process
# It goes with the one that waits for it: PR_SET_PDEATHSIG is 1.
_CODE = """\
import ctypes, signal
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
from metaqap_fast.cli import main
from metaqap_fast.scale import apart
apart.inside = True
main(prog_name="metaqap-fast")
"""


def needed(engine: str, device: str) -> str:
    """The GPU of a run that should have a process of its own; empty if it needs none, or cannot run at all."""
    if inside or "," in device:  # several devices have processes
        return ""
    try:
        gpu = choose(engine, device).gpu
    except MetaqapError:
        return ""
    return gpu.device if gpu else ""


def run(device: str, arguments: Sequence[str]) -> int:
    """The command line of these arguments, in that process: its exit status. Signals are passed on.

    Raises:
        MetaqapError: it crashed.
    """
    process = subprocess.Popen(child.command(_CODE, *arguments))
    with signals.handled(lambda number, _: process.send_signal(number)):
        status = process.wait()
    if -status in signals.SIGNALS:  # before it could say anything
        return 128 - status
    if status < 0:
        raise MetaqapError(child.ended(device, status))
    return status
