"""The decoder in a process of its own: a C library that crashes or hangs costs one image, not the run.

Two batches are with the worker at a time, one being decoded while the other is filled. When the worker dies or
falls silent for `max_seconds`, the images of its batch that have no answer yet are given to a new one, one at a
time. The culprit is an image that ends a worker which has seen nothing else: a crash can also be what an earlier
image did to the heap. It becomes a failed row, and everything else is decoded as ever.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metaqap_fast.decode.worker import ARRAYS, FILES, LINE, write
from metaqap_fast.errors import ImageError, MetaqapError, Status
from metaqap_fast.options import MAX_MEMORY, MAX_PIXELS, MAX_SECONDS, Views
from metaqap_fast.records import Decoded, Encoded, Pixels

START_SECONDS = 120.0  # importing DALI from a cold network disk
STARTS = 3  # tries
BATCH_BYTES = 64 << 20  # encoded bytes of one batch
AHEAD = 2  # batches with the worker
TICK = 0.25  # time counts in ticks: a run that was stopped (Ctrl-Z) does not blame an image for it
MODULE = "metaqap_fast.decode.worker"  # whose `main` the process runs


@dataclass(slots=True)
class _Task:
    """One image on its way to the worker: encoded bytes, or an array [H, W, 3] that only needs resizing."""

    key: bytes
    data: bytes | memoryview | Pixels
    error: ImageError | None = None

    @property
    def nbytes(self) -> int:
        return self.data.nbytes if isinstance(self.data, np.ndarray) else len(self.data)

    @property
    def shape(self) -> list[int]:
        return list(self.data.shape) if isinstance(self.data, np.ndarray) else []


@dataclass(slots=True)
class _Batch:
    tasks: list[_Task]
    sent: bool = False
    suspect: bool = False  # a single image that was there when a worker died

    @property
    def nbytes(self) -> int:
        return sum(task.nbytes for task in self.tasks)


class _Died(Exception):
    """The worker is no more; `status` and the text are what to say of an image that it had alone."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Supervisor:
    """A `Decoder` in a supervised process; same streams, same results.

    Args:
        size, mode, batch_size, max_pixels: see `Decoder`.
        max_seconds: an image that takes longer alone is a row with status `too_large`.
        max_memory: the same for the bytes that the process may take beyond those it starts with.

    The process starts at once, so that it is ready when the model is compiled.
    """

    def __init__(
        self,
        size: int,
        mode: Views = "fit",
        batch_size: int = 16,
        max_pixels: int = MAX_PIXELS,
        max_seconds: float = MAX_SECONDS,
        max_memory: int = MAX_MEMORY,
    ) -> None:
        self.size, self.batch_size, self.max_seconds = size, batch_size, max_seconds
        self.restarts = self._failed_starts = 0
        self._options = {"size": size, "mode": mode, "batch_size": batch_size, "max_pixels": max_pixels}
        self._max_memory = max_memory
        self._process: subprocess.Popen[bytes] | None = None
        self._start()

    def stream(self, images: Iterable[Encoded]) -> Generator[Decoded]:
        """See `Decoder.stream`."""
        return self._stream(_Task(image.key, image.data, image.error) for image in images)

    def stream_arrays(self, images: Iterable[tuple[bytes, Pixels]]) -> Generator[Decoded]:
        """See `Decoder.stream_arrays`."""
        return self._stream(_Task(key, np.ascontiguousarray(array)) for key, array in images)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self._socket.close()
            os.close(self._lifeline)

    def __del__(self) -> None:
        with suppress(AttributeError):  # never started
            self.close()

    def _stream(self, tasks: Iterable[_Task]) -> Generator[Decoded]:
        flying: deque[_Batch] = deque()
        try:
            for batch in _batches(tasks, self.batch_size):
                flying.append(batch)
                while flying and (len(flying) >= AHEAD or sum(each.nbytes for each in flying) > AHEAD * BATCH_BYTES):
                    yield from self._finish(flying)
            while flying:
                yield from self._finish(flying)
        finally:
            if flying:  # stopped early: nobody waits for the answers that are under way
                self.close()

    def _finish(self, flying: deque[_Batch]) -> Iterator[Decoded]:
        """The answers to the first batch; it leaves `flying` when they are complete."""
        first = flying[0]
        while first.tasks:
            task = first.tasks[0]
            try:
                for batch in list(flying)[:AHEAD]:
                    self._send(batch)
                decoded = self._receive(task) if task.error is None else self._failed(task, task.error)
            except _Died as death:
                started, fresh = self._ready, not self._answers
                self.close()
                self.restarts += 1
                for batch in flying:
                    batch.sent = False
                if not started:  # nobody's fault
                    self._failed_starts += 1
                    if self._failed_starts == STARTS:
                        raise MetaqapError(f"the decoding process does not start: {death}") from None
                    continue
                if not first.suspect:
                    flying.popleft()
                    flying.extendleft(_Batch([each], suspect=True) for each in reversed(first.tasks))
                    return
                if not fresh:
                    continue
                decoded = self._failed(task, ImageError(death.status, str(death)))
            self._answers += 1
            first.tasks.pop(0)
            yield decoded
        flying.popleft()

    def _failed(self, task: _Task, error: ImageError) -> Decoded:
        return Decoded(task.key, task.nbytes, np.empty((0, self.size, self.size, 3), np.uint8), error=error)

    # --- the two ends of the wire: `_send` and `_receive` here, `worker.serve` there ---

    def _send(self, batch: _Batch) -> None:
        if batch.sent:
            return
        if self._process is None:
            self._start()
        tasks = [task for task in batch.tasks if task.error is None]
        head = json.dumps([[task.nbytes, task.shape] for task in tasks]).encode()
        fd = os.memfd_create("images", os.MFD_CLOEXEC)
        try:
            write(fd, len(head).to_bytes(8, "little"), head, *(task.data for task in tasks))
            with suppress(OSError):  # a worker that is gone: `_receive` will see it
                socket.send_fds(self._socket, [ARRAYS if tasks and tasks[0].shape else FILES], [fd])
        finally:
            os.close(fd)
        batch.sent = True

    def _receive(self, task: _Task) -> Decoded:
        if not self._ready:
            self._wait_until_ready()
        if not self._received:
            self._unpack(*self._message(self.max_seconds))
        answer, pixels = self._received.popleft()
        status = Status(answer["status"])
        error = ImageError(status, answer["reason"]) if status else None
        return Decoded(task.key, task.nbytes, pixels, answer["width"], answer["height"], error)

    def _unpack(self, message: Any, fd: int | None) -> None:
        """Take in the answers of a message; all its pixels are one memory, which lives as long as one of them."""
        if "died" in message:
            status = Status(message.get("status", Status.engine_error))
            raise _Died(status, f"the decoder failed: {message['died']}")
        shape = sum(answer["views"] for answer in message), self.size, self.size, 3
        pixels = np.empty(shape, np.uint8) if fd is None else _mapped(fd, shape)
        at = 0
        for answer in message:
            self._received.append((answer, pixels[at : at + answer["views"]]))
            at += answer["views"]

    def _message(self, seconds: float) -> tuple[Any, int | None]:
        """The worker's next message and the file that came with it."""
        left = seconds
        while True:
            try:
                line, fds, _, _ = socket.recv_fds(self._socket, LINE, 1)
                break
            except TimeoutError:
                left -= TICK
                if left <= 0:
                    reason = f"not decoded within {seconds:g} seconds"
                    raise _Died(Status.too_large, reason) from None
            except OSError:
                line, fds = b"", []
                break
        if line:
            return json.loads(line), fds[0] if fds else None
        assert self._process is not None
        code = self._process.wait()
        if code == -signal.SIGKILL:
            raise _Died(Status.too_large, "the decoder was killed (out of memory?)")
        name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        raise _Died(Status.corrupt, f"the decoder crashed ({name})")

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        alive, self._lifeline = os.pipe()
        # -I: neither the current folder nor the environment can put another module in front of ours.
        code = f"import sys; sys.path[:] = sys.argv[3].split(chr(0x1f)); from {MODULE} import main; main()"
        path = "\x1f".join(str(Path(entry).absolute()) for entry in sys.path)
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-c",
                code,
                f"{theirs.fileno()},{alive},{self._max_memory}",
                json.dumps(self._options),
                path,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # what C libraries say about bad images: the rows say it
            pass_fds=(theirs.fileno(), alive),
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # numpy's own threads would wait in a loop for nothing
            start_new_session=True,  # Ctrl-C is ours
        )
        theirs.close()
        os.close(alive)
        ours.settimeout(TICK)
        self._socket, self._ready, self._answers = ours, False, 0
        self._received: deque[tuple[dict[str, Any], Pixels]] = deque()

    def _wait_until_ready(self) -> None:
        answer, _ = self._message(START_SECONDS)
        if "died" in answer:
            self.close()
            raise MetaqapError(answer["died"])
        self._ready, self._failed_starts = True, 0


def _mapped(fd: int, shape: tuple[int, ...]) -> Pixels:
    """A file as an array; it lives as long as the array."""
    memory = mmap.mmap(fd, 0, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    os.close(fd)
    return np.frombuffer(memory, np.uint8, math.prod(shape)).reshape(shape)


def _batches(tasks: Iterable[_Task], size: int) -> Iterator[_Batch]:
    """Cut a stream into batches of at most `size` images and, unless one image alone has more, BATCH_BYTES."""
    batch: list[_Task] = []
    nbytes = 0
    for task in tasks:
        if batch and (len(batch) >= size or nbytes + task.nbytes > BATCH_BYTES):
            yield _Batch(batch)
            batch, nbytes = [], 0
        batch.append(task)
        nbytes += task.nbytes
    if batch:
        yield _Batch(batch)
