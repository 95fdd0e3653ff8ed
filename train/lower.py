"""What the lower stages of several networks make of views, kept in pieces: what training of the upper ones reads.

A piece is written once it is whole, so that a pass that was stopped goes on where it was.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from metaqap_fast.engine.openvino_core import library, shared_core
from metaqap_fast.train.features import export_onnx
from metaqap_fast.train.member import Features
from metaqap_fast.train.pooling import pool

log = logging.getLogger(__name__)

PIECE = 250  # rows of a file
View = NDArray[np.uint8]
Rows = NDArray[np.int64]


class _Both(nn.Module):
    """Of each network the pooled taps of all stages, and the activation before its first stage that is trained."""

    def __init__(self, networks: Sequence[Features], stages: Sequence[int]) -> None:
        super().__init__()
        self.networks, self.stages = nn.ModuleList(networks), stages

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        given: list[Tensor] = []
        for features, stage in zip(self.networks, self.stages, strict=True):
            taps, activation = features.network.until(stage, features.preprocess(image))  # type: ignore[union-attr,operator]
            taps = [*taps, *features.network.from_stage(stage, activation)]  # type: ignore[union-attr,operator]
            given += [torch.cat([pool(tap) for tap in taps], 1), activation]
        return tuple(given)


class Lower:
    """Some networks, ready to run.

    Args:
        networks: the members' networks.
        stages: of each, the first stage that is trained.
        precision: fp32 or bf16, as `Settings.precision`.
    """

    def __init__(self, networks: Sequence[Features], stages: Sequence[int], precision: str = "fp32") -> None:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "networks.onnx"
            export_onnx(_Both(networks, stages), path)
            kind = {"fp32": "f32", "bf16": "bf16"}[precision]
            hints = {"INFERENCE_PRECISION_HINT": kind, "PERFORMANCE_HINT": "THROUGHPUT"}
            self._model = shared_core().compile_model(path, "CPU", hints)

    def look(self, views: Iterable[View], count: int) -> list[NDArray[np.float16]]:
        """Of each network pooled taps [n, D] and activations [n, C, h, w], for `count` views [S, S, 3]."""
        outputs = [tuple(output.get_partial_shape())[1:] for output in self._model.outputs]
        given = [np.empty((count, *(size.get_length() for size in shape)), np.float16) for shape in outputs]

        def store(request: Any, row: int) -> None:
            for place, values in enumerate(given):
                values[row] = request.get_output_tensor(place).data[0]

        queue = library().AsyncInferQueue(self._model)
        queue.set_callback(store)
        for row, view in enumerate(views):
            queue.start_async({0: view[None]}, row)
        queue.wait_all()
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
    files: list[list[Path]] = []
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
        for place, file in enumerate(sorted(last.glob("*.npy"))):
            files += [[]] if place == len(files) else []
            files[place].append(file)
    return Kept(files, piece)
