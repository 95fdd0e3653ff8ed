"""A decoding process whose C libraries have bugs: it crashes, hangs or runs out of memory on marked images."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from metaqap_fast.decode import worker
from metaqap_fast.decode.dali import Dali

real = Dali.run
rotten: list[int] = []  # what an image has done to the heap, and a later one dies of


def stuck() -> None:
    """Never comes back and never lets another thread of this interpreter run."""
    lock = threading.Lock()
    lock.acquire()
    import ctypes

    ctypes.PyDLL(None).pause()  # PyDLL keeps the interpreter's lock


def overflow() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (1 << 34, 1 << 34))
    np.ones(1 << 40)


def eat() -> None:
    """Takes 4 GB a bit at a time, whether it may or not."""
    eaten = [np.ones(1 << 24) for _ in range(32)]
    del eaten


def hang_up() -> None:
    """Closes its end of the wire, and stays."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):
            socket.socket(fileno=os.dup(fd)).shutdown(socket.SHUT_RDWR)
    time.sleep(60)


DEEDS = {
    b"SEGV": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    b"ABRT": lambda: os.kill(os.getpid(), signal.SIGABRT),
    b"KILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    b"EXIT": lambda: os._exit(7),
    b"HANG": stuck,
    b"GONE": hang_up,
    b"OVER": overflow,
    b"EATS": eat,
    b"SLOW": lambda: time.sleep(0.8),
    b"NAPS": lambda: time.sleep(0.22),
    b"ROTS": lambda: rotten.append(1),
}


def run(self: Dali, sources: Sequence[Any], sizes: Sequence[Any], fine_sizes: Sequence[Any]) -> Any:
    for source in sources:
        if rotten:
            os.kill(os.getpid(), signal.SIGSEGV)
        for mark, deed in DEEDS.items():
            if mark in source.tobytes()[-4:]:
                deed()
    return real(self, sources, sizes, fine_sizes)


def main() -> None:
    faulthandler.disable()
    Dali.run = run  # type: ignore[method-assign]
    worker.main()
