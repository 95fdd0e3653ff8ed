"""Entries become bytes: read in order and ahead, in bounded memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from metaqap_fast.errors import ImageError, Status
from metaqap_fast.options import MAX_BYTES
from metaqap_fast.records import Encoded, Entry

AHEAD_BYTES = 1 << 24  # a larger file is not read ahead: many at a time would fill the memory
WAITING_BYTES = 256 << 20  # that were read ahead and not yet asked for; beyond them no other file is read ahead
READERS = 8  # threads


def read_bytes(entry: Entry, max_bytes: int = MAX_BYTES) -> Encoded:
    """Read one image. Never raises for a bad one."""
    found = _read(entry, max_bytes, max_bytes)
    assert found is not None
    return found


def _read(entry: Entry, max_bytes: int, ahead_bytes: int) -> Encoded | None:
    """`read_bytes`, but None for more than `ahead_bytes` that could be read."""
    try:
        data = entry.read(max_bytes, ahead_bytes)
        return None if data is None else Encoded(entry.key, data)
    except ImageError as error:
        return Encoded(entry.key, b"", error)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Encoded(entry.key, b"", ImageError(Status.unreadable, reason))


def read_all(entries: Iterable[Entry], ahead: int = 32, max_bytes: int = MAX_BYTES) -> Iterator[Encoded]:
    """Read entries in order, about `ahead` files before they are asked for, by READERS threads (latency of disks and
    network mounts overlaps).

    A thread reads a few files at a time: handing one over takes longer than reading it from a fast disk. Files over
    `AHEAD_BYTES`, and all while `WAITING_BYTES` wait, are read one at a time, when their turn has come.
    """
    lock, held = threading.Lock(), 0

    def hold(nbytes: int) -> None:
        nonlocal held
        with lock:
            held += nbytes

    def read(some: Sequence[Entry]) -> list[Encoded | None]:
        found = []
        for entry in some:
            file = _read(entry, max_bytes, min(AHEAD_BYTES, max_bytes) if held < WAITING_BYTES else 0)
            hold(len(file.data) if file else 0)
            found.append(file)
        return found

    entries, count = iter(entries), max(1, ahead // READERS)
    with ThreadPoolExecutor(READERS, thread_name_prefix="read") as pool:
        waiting: deque[tuple[Sequence[Entry], Future[list[Encoded | None]]]] = deque()
        try:
            while True:
                while len(waiting) * count < ahead and (next_ones := list(islice(entries, count))):
                    waiting.append((next_ones, pool.submit(read, next_ones)))
                if not waiting:
                    return
                some, future = waiting.popleft()
                found = future.result()
                hold(-sum(len(file.data) for file in found if file))
                for entry, file in zip(some, found, strict=True):
                    yield file or read_bytes(entry, max_bytes)
        finally:
            for _, future in waiting:
                future.cancel()
