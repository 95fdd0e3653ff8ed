"""What goes between a run and its decoding process: both ends of a Unix socket that keeps messages apart.

A batch of images arrives as one memfd (a JSON list, then the images' bytes); views go back as one memfd for several
images. Nothing is copied through a pipe, nothing is pickled, and whatever dies, the kernel frees.
"""

from __future__ import annotations

import fcntl
import json
import math
import mmap
import os
import socket
import termios
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from metaqap_fast.errors import ImageError, MetaqapError, Status
from metaqap_fast.records import Decoded, Details, Encoded, Pixels

LINE = 1 << 16  # bytes of one message, at most
TOGETHER = 8 << 20  # bytes of views that are sent together; more of one image, when those before have been taken
MOST = 64  # answers sent together, which are less than a LINE
REASON, NOTE = 4000, 80  # letters of one, at most: the same
IOV_MAX = os.sysconf("SC_IOV_MAX")  # parts of one write
_FILES, _ARRAYS = b"files", b"arrays"  # what a batch holds


class Batch(NamedTuple):
    """Images as the decoding process sees them: without their keys, in the batch's own memory; one list is empty."""

    files: list[Encoded]
    arrays: list[tuple[bytes, Pixels]]


class Death(Exception):
    """The decoding process ends or has ended; `status` and the text are what to say of an image that it had alone."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status


# --- a batch: `send_batch` in the run, `receive_batch` in the process ---


def send_batch(connection: socket.socket, images: Sequence[bytes | memoryview | Pixels]) -> None:
    """Hand over images: all of them files, or all of them pixels [H, W, 3] uint8."""
    shapes = [image.shape if isinstance(image, np.ndarray) else () for image in images]
    sizes = [image.nbytes if isinstance(image, np.ndarray) else len(image) for image in images]
    head = json.dumps(list(zip(sizes, shapes, strict=True))).encode()
    fd = os.memfd_create("images", os.MFD_CLOEXEC)
    try:
        write(fd, len(head).to_bytes(8, "little"), head, *images)
        with suppress(OSError):  # a process that is gone: `receive` will see it
            socket.send_fds(connection, [_ARRAYS if any(shapes) else _FILES], [fd])
    finally:
        os.close(fd)


def receive_batch(connection: socket.socket) -> Batch | None:
    """The next batch; None when the run has hung up."""
    kind, fds, _, _ = socket.recv_fds(connection, LINE, 1)
    if not kind:
        return None
    memory = memoryview(mmap.mmap(fds[0], 0, prot=mmap.PROT_READ))  # mapped as long as anything looks at it
    os.close(fds[0])
    at = 8 + int.from_bytes(memory[:8], "little")
    batch = Batch([], [])
    for nbytes, shape in json.loads(bytes(memory[8:at])):
        data, at = memory[at : at + nbytes], at + nbytes
        if kind == _ARRAYS:
            batch.arrays.append((b"", np.frombuffer(data, np.uint8).reshape(shape)))
        else:
            batch.files.append(Encoded(b"", data))
    return batch


# --- answers: `Answers` and `tell_...` in the process, `receive` in the run ---


class Answers:
    """Answers on their way back, several in a message: each one wakes the run. When left, all are sent."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._waiting: list[dict[str, Any]] = []
        self._fd: int | None = None
        self._nbytes = 0

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *_: object) -> None:
        self._send()

    def add(self, decoded: Decoded) -> None:
        """An image's answer; its views are copied."""
        views, error = decoded.views, decoded.error
        if views.nbytes > TOGETHER:
            self._send()
            while fcntl.ioctl(self._connection, termios.TIOCOUTQ, bytes(4)) != bytes(4):
                time.sleep(0.002)  # else all of two batches would wait in memory, 50 MB an image
        if views.nbytes:
            if self._fd is None:
                self._fd = os.memfd_create("views", os.MFD_CLOEXEC)
            write(self._fd, views)
        self._waiting.append(
            {
                "status": int(error.status if error else Status.ok),
                "reason": error.reason[:REASON] if error else "",
                "width": decoded.width,
                "height": decoded.height,
                "note": decoded.note[:NOTE],
                "hash": decoded.hash,
                "details": astuple(decoded.details) if decoded.details else None,
                "views": views.shape,
                "fine": decoded.fine,
            }
        )
        self._nbytes += views.nbytes
        if error or self._nbytes >= TOGETHER or len(self._waiting) == MOST:
            self._send()

    def _send(self) -> None:
        if self._waiting:
            _tell(self._connection, self._waiting, *([] if self._fd is None else [self._fd]))
        if self._fd is not None:
            os.close(self._fd)
        self._waiting, self._fd, self._nbytes = [], None, 0


def tell_ready(connection: socket.socket) -> None:
    """The decoder is loaded: from now on time counts."""
    _tell(connection, [])


def tell_death(connection: socket.socket, status: Status, reason: str) -> None:
    """The process is about to end, over the image that it has not answered."""
    _tell(connection, {"died": reason[:REASON], "status": int(status)})


def tell_cannot(connection: socket.socket, reason: str) -> None:
    """No image can be decoded on this machine."""
    _tell(connection, {"cannot": reason[:REASON]})


def receive(connection: socket.socket) -> list[Decoded] | None:
    """The next answers, without keys and sizes of files; none of them when the process tells that it is ready.

    All views of a message are one memory, which lives as long as one of them. None: the process has hung up.

    Raises:
        TimeoutError: nothing came within the connection's timeout.
        Death: the process ends.
        MetaqapError: no process can decode on this machine.
    """
    try:
        try:
            line, fds, _, _ = socket.recv_fds(connection, LINE, 1)
        except ConnectionResetError:  # it left a batch unread: the kernel says so once, before what it had sent
            line, fds, _, _ = socket.recv_fds(connection, LINE, 1)
    except TimeoutError:
        raise
    except OSError:
        return None
    if not line:
        return None
    message = json.loads(line)
    if isinstance(message, list):
        return _unpacked(message, fds[0] if fds else None)
    if "cannot" in message:
        raise MetaqapError(message["cannot"])
    raise Death(Status(message["status"]), f"the decoder failed: {message['died']}")


def _unpacked(answers: Sequence[dict[str, Any]], fd: int | None) -> list[Decoded]:
    memory = np.empty(0, np.uint8) if fd is None else _mapped(fd)
    at, found = 0, []
    for answer in answers:
        result: Pixels | ImageError
        if answer["status"]:
            result = ImageError(Status(answer["status"]), answer["reason"])
        else:
            nbytes = math.prod(answer["views"])
            result = memory[at : at + nbytes].reshape(answer["views"])
            at += nbytes
        about = {name: answer[name] for name in ("width", "height", "note", "hash", "fine")}
        details = Details(*answer["details"]) if answer["details"] else None
        found.append(Decoded(b"", 0, result, **about, details=details))
    return found


def _mapped(fd: int) -> Pixels:
    """A file as an array; it lives as long as the array."""
    memory = mmap.mmap(fd, 0, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    os.close(fd)
    return np.frombuffer(memory, np.uint8)


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
