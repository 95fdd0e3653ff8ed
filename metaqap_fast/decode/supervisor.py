"""The decoder in a process of its own: a C library that crashes or hangs costs one image, not the run.

Two batches are with the worker at a time, one being decoded while the other is filled. When the worker dies or
falls silent for `max_seconds`, the images of its batch that have no answer yet are given to a new one, one at a
time. The culprit is an image that ends a worker which has seen nothing else: a crash can also be what an earlier
image did to the heap. It becomes a failed row, and everything else is decoded as ever.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import IO

import numpy as np

from metaqap_fast import child
from metaqap_fast.decode import DecodeOptions, Limits, wire
from metaqap_fast.decode.wire import Death
from metaqap_fast.errors import ImageError, MetaqapError, Status
from metaqap_fast.formats import read_header
from metaqap_fast.options import PIXEL_BYTES
from metaqap_fast.records import Decoded, Encoded, Pixels

START_SECONDS = 120.0  # importing DALI from a cold network disk
STARTS = 3  # tries
BATCH_BYTES = 64 << 20  # encoded bytes of one batch
AHEAD = 2  # batches with the worker
TICK = 0.25  # time counts in ticks: a run that was stopped (Ctrl-Z) does not blame an image for it
MODULE = "metaqap_fast.decode.worker"  # whose `main` the process runs


@dataclass(frozen=True, slots=True)
class _Task:
    """One image on its way to the worker: encoded bytes, or an array [H, W, 3] that only needs resizing."""

    key: bytes
    data: bytes | memoryview | Pixels
    error: ImageError | None = None

    @property
    def nbytes(self) -> int:
        return self.data.nbytes if isinstance(self.data, np.ndarray) else len(self.data)

    @property
    def pixels(self) -> int:
        """How many it has, as far as that can be told without decoding."""
        if isinstance(self.data, np.ndarray):
            return self.data.size // 3
        with suppress(ImageError):
            header = read_header(self.data)
            return header.width * header.height
        return 0

    def failed(self, error: ImageError) -> Decoded:
        return Decoded(self.key, self.nbytes, error)


@dataclass(slots=True)
class _Batch:
    tasks: list[_Task]
    sent: bool = False
    suspect: bool = False  # a single image that was there when a worker died

    @property
    def nbytes(self) -> int:
        return sum(task.nbytes for task in self.tasks)


@dataclass(slots=True)
class _Worker:
    """A process, from its start to its end. What is held here closes with the last reference to it."""

    process: subprocess.Popen[bytes]
    connection: socket.socket
    lifeline: IO[bytes]  # the process ends when this closes
    ready: bool = False
    answered: int = 0  # images
    received: deque[Decoded] = field(default_factory=deque)

    def receive(self, seconds: float) -> list[Decoded]:
        """The next message's answers.

        Raises:
            Death: it is gone, or said nothing for so long.
        """
        tick, left = min(TICK, seconds), seconds
        self.connection.settimeout(tick)
        while True:
            try:
                answers = wire.receive(self.connection)
                break
            except TimeoutError:
                left -= tick
                if left <= 0:
                    raise Death(Status.too_large, f"not decoded within {seconds:g} seconds") from None
        if answers is None:
            raise self._death()
        return answers

    def _death(self) -> Death:
        """What it died of, after it has hung up."""
        try:
            code = self.process.wait(child.SECONDS_TO_DIE)
        except subprocess.TimeoutExpired:
            return Death(Status.corrupt, "the decoder crashed (and does not end)")
        if code == -signal.SIGKILL:
            return Death(Status.too_large, "the decoder was killed (out of memory?)")
        name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return Death(Status.corrupt, f"the decoder crashed ({name})")

    def end(self) -> None:
        """Kill it."""
        child.end([self.process])
        self.connection.close()
        self.lifeline.close()


class Supervisor:
    """A `Decoder` in a supervised process; same streams, same results as `LocalDecoder`.

    The process starts at once, so that it is ready when the model is compiled.
    """

    def __init__(self, options: DecodeOptions, limits: Limits) -> None:
        self.options, self.limits = options, limits
        self.restarts = self._failed_starts = 0
        self._closed = False
        self._worker: _Worker | None = self._started()

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return self._worker.process.pid if self._worker else None

    def stream(self, images: Iterable[Encoded]) -> Generator[Decoded]:
        """See `Decoder.stream`."""
        return self._stream(_Task(image.key, image.data, image.error) for image in images)

    def stream_arrays(self, images: Iterable[tuple[bytes, Pixels]]) -> Generator[Decoded]:
        """See `Decoder.stream_arrays`."""
        return self._stream(_Task(key, np.ascontiguousarray(array)) for key, array in images)

    def close(self) -> None:
        """End the process for good. A stream that another thread is reading ends with an error."""
        self._closed = True
        self._end()

    def _end(self) -> None:
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def _stream(self, tasks: Iterable[_Task]) -> Generator[Decoded]:
        flying: deque[_Batch] = deque()
        try:
            for batch in _batches(tasks, self.options.batch_size):
                flying.append(batch)
                while flying and (len(flying) >= AHEAD or sum(each.nbytes for each in flying) > AHEAD * BATCH_BYTES):
                    yield from self._finish(flying)
            while flying:
                yield from self._finish(flying)
        finally:
            if flying:  # stopped early: nobody waits for the answers that are under way
                self._end()

    def _finish(self, flying: deque[_Batch]) -> Iterator[Decoded]:
        """The answers to the first batch; it leaves `flying` when they are complete."""
        first = flying[0]
        while first.tasks:
            task = first.tasks[0]
            worker = self._worker = self._worker or self._started()
            try:
                for batch in list(flying)[:AHEAD]:
                    _send(worker, batch)
                decoded = self._answer(worker, task) if task.error is None else task.failed(task.error)
            except Death as death:
                self._end()
                self.restarts += 1
                for batch in flying:
                    batch.sent = False
                if not worker.ready:  # nobody's fault
                    self._failed_starts += 1
                    if self._failed_starts == STARTS:
                        raise MetaqapError(f"the decoding process does not start: {death}") from None
                    continue
                if not first.suspect:
                    flying.popleft()
                    flying.extendleft(_Batch([each], suspect=True) for each in reversed(first.tasks))
                    return
                if worker.answered:
                    continue
                decoded = task.failed(self._blame(task, death))
            first.tasks.pop(0)
            yield decoded
        flying.popleft()

    def _answer(self, worker: _Worker, task: _Task) -> Decoded:
        if not worker.ready:
            worker.receive(START_SECONDS)
            worker.ready, self._failed_starts = True, 0
        if not worker.received:
            worker.received.extend(worker.receive(self.limits.max_seconds))
        worker.answered += 1
        return replace(worker.received.popleft(), key=task.key, nbytes=task.nbytes)

    def _blame(self, task: _Task, death: Death) -> ImageError:
        """What to say of an image that ended a process which had seen nothing else.

        A C library that gets no memory often crashes. What the image's pixels can need decides.
        """
        most = self.limits.max_memory
        if death.status == Status.corrupt and task.pixels * PIXEL_BYTES > most:
            return ImageError(Status.too_large, f"{death}; it can need more than --max-memory ({most} bytes)")
        return ImageError(death.status, str(death))

    def _started(self) -> _Worker:
        if self._closed:
            raise MetaqapError("the decoder is closed")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        alive, lifeline = os.pipe()
        code = f"from {MODULE} import main; main()"
        numbers = f"{theirs.fileno()},{alive},{self.limits.max_memory}"
        process = subprocess.Popen(
            child.command(code, numbers, json.dumps(asdict(self.options))),
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
        return _Worker(process, ours, os.fdopen(lifeline, "wb", buffering=0))


def _send(worker: _Worker, batch: _Batch) -> None:
    if not batch.sent:
        wire.send_batch(worker.connection, [task.data for task in batch.tasks if task.error is None])
        batch.sent = True


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
