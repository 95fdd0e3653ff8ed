"""The process that decodes: what `supervisor` starts, feeds, and starts again.

A batch arrives as one memfd (a JSON list, then the images' bytes), pixels go back as one memfd for several images:
nothing is copied through a pipe, nothing is pickled, and whatever dies, the kernel frees.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import resource
import signal
import socket
import sys
import termios
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

import numpy as np

from metaqap_fast.decode.dali import OUT_OF_MEMORY, UNDECODABLE, Decoder
from metaqap_fast.errors import ImageError, MetaqapError, Status
from metaqap_fast.records import Decoded, Encoded, Pixels

LINE = 1 << 16  # bytes of one message, at most
FILES, ARRAYS = b"files", b"arrays"  # what a batch holds
PIXEL_BYTES = 16  # to decode a pixel of JPEG 2000, which takes the most
TOGETHER = 8 << 20  # bytes of views that are sent together; more of one image, when those before have been taken
MOST = 64  # answers sent together, which are less than a LINE
IOV_MAX = os.sysconf("SC_IOV_MAX")  # parts of one write
_WARM_UP = b"P6 1 1 255\n\0\0\0"


def main() -> None:
    """The worker process: sys.argv holds two file descriptors, a limit of memory, and the decoder's options."""
    wire, alive, max_memory = map(int, sys.argv[1].split(","))
    _protect(alive)
    connection = socket.socket(fileno=wire)
    try:
        serve(connection, Decoder(**json.loads(sys.argv[2]), borrow=True), max_memory)
    except MetaqapError as error:
        _tell(connection, {"died": str(error)})
    except MemoryError as error:
        _tell(connection, {"died": str(error) or OUT_OF_MEMORY, "status": int(Status.too_large)})
    except (BrokenPipeError, ConnectionResetError):
        pass  # the run is over
    except Exception as error:  # noqa: BLE001 -- the supervisor must hear of it, whatever it is
        _tell(connection, {"died": f"{type(error).__name__}: {error}"})
    os._exit(0)


def _protect(alive: int) -> None:
    """Signals, limits, and the end: this process must go when its parent does, even while it is stuck."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the parent decides, and blames no image for a signal
    # The kernel ends us by SIGIO when the other end of this pipe closes; no thread of ours has to run for that.
    fcntl.fcntl(alive, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(alive, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        if not os.read(alive, 1):  # it is gone already
            os._exit(0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")  # should memory run out, then this process goes and not the run


def serve(connection: socket.socket, decoder: Decoder, max_memory: int) -> None:
    """Answer batches until the supervisor hangs up.

    Raises:
        MemoryError: an image would take more than `max_memory` bytes. What it has left of them is not known then,
            so this process ends; the supervisor asks a new one whether it was this image alone.
    """
    list(decoder.stream([Encoded(b"", _WARM_UP)]))  # the decoder is loaded before anyone's time counts
    limit = _data() + max_memory
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    _tell(connection, {"ready": True})
    while True:
        line, fds, _, _ = socket.recv_fds(connection, LINE, 1)
        if not line:
            return
        with _Answers(connection) as answers:
            for decoded in decoder.stream_arrays(_arrays(fds[0])) if line == ARRAYS else decoder.stream(_files(fds[0])):
                if decoded.error and _short(decoded.error, decoded.width * decoded.height, max_memory):
                    raise MemoryError(f"it needs more than --max-memory ({max_memory} bytes)")
                answers.add(decoded)


def _data() -> int:
    """Bytes of memory that are this process's own, those of its threads' stacks included: what RLIMIT_DATA counts."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmData:"))


def _short(error: ImageError, pixels: int, max_memory: int) -> bool:
    """Whether it was for want of memory. Not every decoder says so: then what its pixels can need decides."""
    unsaid = error.reason.startswith(UNDECODABLE) and pixels * PIXEL_BYTES > max_memory
    return error.reason == OUT_OF_MEMORY or unsaid


def _files(fd: int) -> Iterator[Encoded]:
    return (Encoded(b"", data) for data, _ in _unpack(fd))


def _arrays(fd: int) -> Iterator[tuple[bytes, Pixels]]:
    return ((b"", np.frombuffer(data, np.uint8).reshape(shape)) for data, shape in _unpack(fd))


def _unpack(fd: int) -> Iterator[tuple[memoryview, list[int]]]:
    memory = memoryview(mmap.mmap(fd, 0, prot=mmap.PROT_READ))  # mapped as long as anything looks at it
    os.close(fd)
    at = 8 + int.from_bytes(memory[:8], "little")
    for nbytes, shape in json.loads(bytes(memory[8:at])):
        yield memory[at : at + nbytes], shape
        at += nbytes


class _Answers:
    """Answers on their way back, several in a message: each one wakes the supervisor. When left, all are sent."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._waiting: list[dict[str, Any]] = []
        self._fd: int | None = None
        self._nbytes = 0

    def __enter__(self) -> _Answers:
        return self

    def __exit__(self, *_: object) -> None:
        self._send()

    def add(self, decoded: Decoded) -> None:
        """An image's answer; its views are copied."""
        nbytes = decoded.views.nbytes
        if nbytes > TOGETHER:
            self._send()
            while fcntl.ioctl(self._connection, termios.TIOCOUTQ, bytes(4)) != bytes(4):
                time.sleep(0.002)  # else all of two batches would wait in memory, 50 MB an image
        if nbytes:
            if self._fd is None:
                self._fd = os.memfd_create("views", os.MFD_CLOEXEC)
            write(self._fd, decoded.views)
        self._waiting.append(
            {
                "status": int(decoded.error.status if decoded.error else Status.ok),
                "reason": decoded.error.reason[:4000] if decoded.error else "",
                "width": decoded.width,
                "height": decoded.height,
                "views": len(decoded.views),
            }
        )
        self._nbytes += nbytes
        if decoded.error or self._nbytes >= TOGETHER or len(self._waiting) == MOST:
            self._send()

    def _send(self) -> None:
        if self._waiting:
            _tell(self._connection, self._waiting, *([] if self._fd is None else [self._fd]))
        if self._fd is not None:
            os.close(self._fd)
        self._waiting, self._fd, self._nbytes = [], None, 0


def _tell(connection: socket.socket, message: object, *fds: int) -> None:
    with suppress(BrokenPipeError):
        socket.send_fds(connection, [json.dumps(message).encode()], fds)


def write(fd: int, *parts: bytes | memoryview | Pixels) -> None:
    """All of `parts` into a file, with as few calls as can be."""
    rest = deque(part.reshape(-1).data if isinstance(part, np.ndarray) else memoryview(part) for part in parts)
    while rest:
        done = os.writev(fd, list(islice(rest, IOV_MAX)))
        while rest and done >= len(rest[0]):
            done -= len(rest.popleft())
        if rest:
            rest[0] = rest[0][done:]
