"""Python processes of our own: what they import does not depend on where they start, and no wait for them is
endless.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

SECONDS_TO_DIE = 10.0  # for a killed process to be gone; it may be waiting for a disk or a device
_START = """\
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while it starts is no traceback
sys.path[:] = sys.argv.pop().split(chr(31))
"""


def command(code: str, *arguments: str) -> list[str]:
    """The arguments of a process that runs Python code with the modules that this process has.

    Neither the current folder nor the environment can put another module in front of ours (-I). `arguments` are
    sys.argv[1:] there.
    """
    path = chr(31).join(str(Path(entry).absolute()) for entry in sys.path)
    return [sys.executable, "-I", "-c", _START + code, *arguments, path]


def end(processes: Iterable[subprocess.Popen[Any]], seconds: float = 0.0) -> None:
    """Wait some seconds for processes to end by themselves, then kill them.

    Also this has an end: the kernel lets a killed process go when the device that it waits for comes back.
    """
    deadline = time.monotonic() + seconds
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        if process.poll() is None:
            process.kill()
            with suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_TO_DIE)


def ended(device: str, status: int | None) -> str:
    """What to tell of a process on a device that ended before its work did."""
    killed = status is not None and -status in set(signal.Signals)
    name = f" ({signal.Signals(-status).name})" if status is not None and killed else ""
    again = ". If it happens again, an image may be what crashes it: score with --device cpu into another file"
    return (
        f"the process on {device} ended with status {status}{name}. Rows committed so far are safe; go on with "
        f"--resume{again if device.startswith('cuda') else ''}"
    )
