"""Entries become bytes: read in order and ahead, in bounded memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from metaqap_fast.errors import ImageError, Status
from metaqap_fast.input.local import read_files
from metaqap_fast.options import MAX_BYTES
from metaqap_fast.records import Encoded, Entry, asked, local_path, told

AHEAD_BYTES = 1 << 24  # a larger file is not read ahead: many at a time would fill the memory
WAITING_BYTES = 256 << 20  # that were read ahead and not yet asked for; beyond them no other file is read ahead
READERS = 8  # threads
DISTANT = 128  # files that are read at once over a network


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
    network mounts overlaps); DISTANT of what is distant, each by a thread of its own.

    A thread reads a few files at a time: handing one over takes longer than reading it from a fast disk. Files over
    `AHEAD_BYTES`, and all while `WAITING_BYTES` wait, are read one at a time, when their turn has come.
    """
    lock, held = threading.Lock(), 0

    def hold(nbytes: int) -> None:
        nonlocal held
        with lock:
            held += nbytes

    def begin(some: Sequence[Entry]) -> Future[list[Encoded | None]]:
        """What takes no thread, unless it fails: then one of them tries again."""
        entry = some[0]
        coming = asked(entry, min(AHEAD_BYTES, max_bytes) if held < WAITING_BYTES else 0) if entry.distant else None
        if coming is None:
            return pool.submit(read, some)
        size, found = entry.stamp().size, Future[list[Encoded | None]]()
        hold(size)

        def retry() -> None:
            try:
                found.set_result(read(some))
            except BaseException as error:  # noqa: BLE001 -- raised again where the file is wanted
                found.set_exception(error)

        def came(done: Future[bytes]) -> None:
            if done.exception() is None:
                found.set_result([Encoded(entry.key, done.result())])
                return
            hold(-size)
            with suppress(RuntimeError):  # nobody wants it any more
                pool.submit(retry)

        coming.add_done_callback(came)
        return found

    def read(some: Sequence[Entry]) -> list[Encoded | None]:
        return [file or read_one(entry) for entry, file in zip(some, read_local(some), strict=True)]

    def read_local(some: Sequence[Entry]) -> list[Encoded | None]:
        paths = [path for path in map(local_path, some) if path]
        if len(paths) < len(some):
            return [None] * len(some)
        coming = 0

        def is_wanted(nbytes: int) -> bool:
            nonlocal coming
            if nbytes > min(AHEAD_BYTES, max_bytes) or held >= WAITING_BYTES:
                return False
            hold(nbytes)
            coming += nbytes
            return True

        files = read_files(paths, is_wanted)
        hold(sum(len(file.data) for file in files if file) - coming)  # one may have been shortened meanwhile
        found = list[Encoded | None]()
        for entry, file in zip(some, files, strict=True):
            if file:
                told(entry, file.stamp)
            found.append(Encoded(entry.key, file.data) if file else None)
        return found

    def read_one(entry: Entry) -> Encoded | None:
        coming = max(0, entry.stamp().size) if entry.distant else 0  # counts before it is there: many are on the way
        hold(coming)
        file = _read(entry, max_bytes, min(AHEAD_BYTES, max_bytes) if held - coming < WAITING_BYTES else 0)
        hold((len(file.data) if file else 0) - coming)
        return file

    groups = _groups(entries, max(1, ahead // READERS))
    with ThreadPoolExecutor(max(READERS, DISTANT), thread_name_prefix="read") as pool:
        waiting: deque[tuple[Sequence[Entry], Future[list[Encoded | None]]]] = deque()
        load = 0.0  # of what may wait, the part that does
        try:
            while True:
                while load < 1 - 1e-9 and (some := next(groups, None)):
                    waiting.append((some, begin(some)))
                    load += _load(some, ahead)
                if not waiting:
                    return
                some, future = waiting.popleft()
                found = future.result()
                load -= _load(some, ahead)
                hold(-sum(len(file.data) for file in found if file))
                for entry, file in zip(some, found, strict=True):
                    yield file or read_bytes(entry, max_bytes)
        finally:
            for _, future in waiting:
                future.cancel()


def _groups(entries: Iterable[Entry], count: int) -> Iterator[Sequence[Entry]]:
    """What a thread reads at a time: a distant entry alone, of others up to `count`."""
    group: list[Entry] = []
    for entry in entries:
        if group and (entry.distant or len(group) == count):
            yield group
            group = []
        group.append(entry)
        if entry.distant:
            yield group
            group = []
    if group:
        yield group


def _load(some: Sequence[Entry], ahead: int) -> float:
    return 1 / max(ahead, DISTANT) if some[0].distant else len(some) / ahead
