"""What the lower stages of several networks make of views, kept in pieces: what training of the upper ones reads.

A piece is written once it is whole, so that a pass that was stopped goes on where it was.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from metaqap_fast.train.features import OnCpu, Probe
from metaqap_fast.train.member import Features

log = logging.getLogger(__name__)

PIECE = 250  # rows of a file
View = NDArray[np.uint8]
Rows = NDArray[np.int64]


class _Together(nn.Module):
    """What several probes give, one after the other."""

    def __init__(self, probes: Sequence[Probe]) -> None:
        super().__init__()
        self.probes = nn.ModuleList(probes)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(given for probe in self.probes for given in probe(image))


class Lower:
    """Some networks, ready to run.

    Args:
        networks: the members' networks.
        stages: of each, the first stage that is trained, at least 1.
        precision: fp32 or bf16, as `Settings.precision`.
    """

    def __init__(self, networks: Sequence[Features], stages: Sequence[int], precision: str = "fp32") -> None:
        self._run = OnCpu(_Together(list(map(Probe, networks, stages))), precision)

    def look(self, views: Iterable[View], count: int) -> list[NDArray[np.float16]]:
        """Of each network pooled taps [n, D] and activations [n, C, h, w], for `count` views [S, S, 3]."""
        given: list[NDArray[np.float16]] = []
        lock = threading.Lock()

        def store(row: int, outputs: list[NDArray[Any]]) -> None:
            with lock:
                if not given:
                    given.extend(np.empty((count, *output.shape), np.float16) for output in outputs)
            for whole, output in zip(given, outputs, strict=True):
                whole[row] = output

        self._run(views, store)
        return given


class Kept:
    """Rows of what `Lower` gave, read from disk as they are asked for."""

    def __init__(self, files: Sequence[Sequence[Path]], piece: int) -> None:
        self._pieces = [[np.load(file, mmap_mode="r", allow_pickle=False) for file in each] for each in files]
        self._piece = piece

    def pooled(self, network: int, rows: Rows | slice = slice(None)) -> NDArray[np.float16]:
        """[n, D] of a network."""
        return self._take(2 * network, rows)

    def activation(self, network: int, rows: Rows | slice = slice(None)) -> NDArray[np.float16]:
        """[n, C, h, w] of a network."""
        return self._take(2 * network + 1, rows)

    def __len__(self) -> int:
        return sum(len(piece) for piece in self._pieces[0])

    def _take(self, array: int, rows: Rows | slice) -> NDArray[np.float16]:
        pieces = self._pieces[array]
        if isinstance(rows, slice):
            return np.concatenate(pieces)[rows]
        return np.stack([pieces[row // self._piece][row % self._piece] for row in rows.tolist()])


def keep(
    lower: Lower, count: int, views: Callable[[int, int], Iterable[View]], folder: Path, piece: int = PIECE
) -> Kept:
    """What networks make of `count` views, from `folder` where it is there already.

    Args:
        lower: the networks.
        count: rows.
        views: the views of rows `start` to `stop` - 1; called only for pieces that are missing.
        folder: of the pieces; other views, networks or stages need another folder.
        piece: rows of one file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    begin, made = time.monotonic(), 0
    pieces: list[Path] = []
    for start in range(0, count, piece):
        stop = min(count, start + piece)
        last = folder / f"{start:06d}-{stop:06d}"
        if not (last / "done").exists():
            last.mkdir(exist_ok=True)
            for place, values in enumerate(lower.look(views(start, stop), stop - start)):
                np.save(last / f"{place}.npy", values)
            (last / "done").touch()
            made += stop - start
            log.info("%s: %d of %d, %.1f a second", folder.name, stop, count, made / (time.monotonic() - begin))
        pieces.append(last)
    arrays = range(len(list(pieces[0].glob("*.npy"))))
    return Kept([[folder / f"{array}.npy" for folder in pieces] for array in arrays], piece)
