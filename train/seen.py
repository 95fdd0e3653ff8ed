"""What a bundle's members see in views: the pooled taps that their heads read, cached in pieces.

By the native kernel, which takes the taps on its way and is the fastest there is on a CPU. A piece is a file
of its own, so that a pass that was stopped goes on where it was.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.engine.native.engine import fastest
from metaqap_fast.engine.native.layout import aligned_bytes
from metaqap_fast.model.bundle import Bundle

log = logging.getLogger(__name__)

PIECE = 250  # rows of a file
View = NDArray[np.uint8]
Pooled = NDArray[np.float16]


class Eyes:
    """The members of a bundle, ready to run.

    Args:
        bundle: the members.
        precision: fp32, or bf16, which costs half the time and moves a prediction by some .002.
        threads: all that the process may use, if 0.
    """

    def __init__(self, bundle: Bundle, precision: str = "fp32", threads: int = 0) -> None:
        self._kernels, _ = fastest(bundle, precision)
        self._threads = threads or len(os.sched_getaffinity(0))
        self._free: SimpleQueue[NDArray[np.uint8]] = SimpleQueue()
        for _ in range(self._threads):
            self._free.put(aligned_bytes(max(kernel.workspace for kernel in self._kernels)))

    def look(self, views: Iterable[View]) -> Iterator[list[Pooled]]:
        """The pooled taps [D] float16 of each member, for each view [S, S, 3] uint8, in order."""
        with ThreadPoolExecutor(self._threads) as pool:
            waiting = iter(views)
            flying = [pool.submit(self._one, view) for view in islice(waiting, 4 * self._threads)]
            while flying:
                yield flying.pop(0).result()
                flying += [pool.submit(self._one, view) for view in islice(waiting, 1)]

    def _one(self, view: View) -> list[Pooled]:
        memory = self._free.get()
        try:
            return [kernel.run(view, memory)[1].astype(np.float16) for kernel in self._kernels]
        finally:
            self._free.put(memory)


def remember(
    eyes: Eyes, count: int, views: Callable[[int, int], Iterable[View]], folder: Path, piece: int = PIECE
) -> list[Pooled]:
    """What each member sees in `count` views: [n, D] for each member, read from `folder` where it is there already.

    Args:
        eyes: the members.
        count: rows.
        views: the views of rows `start` to `stop` - 1; called only for pieces that are missing.
        folder: of the pieces; other views or another bundle need another folder. More rows go on from fewer.
        piece: rows of one file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: list[list[Pooled]] = []
    begin, made = time.monotonic(), 0
    for start in range(0, count, piece):
        stop = min(count, start + piece)
        file = folder / f"{start:06d}.npz"
        stored = read_kept(file) if file.exists() else []
        if not stored or len(stored[0]) < stop - start:  # there is none, or it was the end of a shorter run
            rows = list(eyes.look(views(start, stop)))
            keep(file, [np.stack(member) for member in zip(*rows, strict=True)])
            stored = read_kept(file)
            made += stop - start
            rate = made / (time.monotonic() - begin)
            log.info("%s: %d of %d views, %.1f a second", folder.name, stop, count, rate)
        found.append([member[: stop - start] for member in stored])
    return [np.concatenate(member) for member in zip(*found, strict=True)]


def keep(file: Path, arrays: Sequence[NDArray[Any]]) -> None:
    """Write arrays to a file of a cache, which is there when it is whole."""
    partial = file.with_suffix(".partial")
    with open(partial, "wb") as out:
        np.savez(out, *arrays)
    partial.rename(file)


def read_kept(file: Path) -> list[NDArray[Any]]:
    """The arrays of a file of a cache."""
    with np.load(file, allow_pickle=False) as stored:
        return [stored[name] for name in stored.files]
