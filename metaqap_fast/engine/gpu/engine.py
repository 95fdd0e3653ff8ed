"""Engines on a GPU: images gathered into batches on the device, predictions that stay there.

Whole images fill a batch, views of one image stand side by side. What runs the batch is a `Runner`: TensorRT
or torch. The torch runner also works on a CPU, slowly; there it is the reference of the parity tests.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Generic, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metaqap_fast.engine import T
from metaqap_fast.engine.cuda import GpuLost, lost, out_of_memory
from metaqap_fast.errors import MetaqapError

log = logging.getLogger(__name__)


class Runner(Protocol):
    """A network with fixed buffers on one device.

    `image` is its input [batch, S, S, 3] uint8; rows of a result depend on their own view alone.
    """

    image: Tensor
    members: int

    def run(self, count: int) -> Tensor:
        """Predictions [count, M] float32 of the first `count` views in `image`; valid until the next call."""
        ...

    def resize(self, batch: int) -> None:
        """Another batch; frees what the old one needed."""
        ...

    def close(self) -> None:
        """Free the device's memory."""
        ...


@dataclass(frozen=True, slots=True)
class Batch(Generic[T]):
    """Images that were run together: a tag and a number of views for each, predictions [sum(counts), M]."""

    tags: list[T]
    counts: list[int]
    predictions: Tensor


class DeviceEngine:
    """See `metaqap_fast.engine.Engine`; `batches` is the way that leaves predictions on the device.

    Args:
        runner: the network.
        name, precision, device: what runs, for the score file.
        device_id: number of the GPU, None on a CPU.
    """

    def __init__(self, runner: Runner, name: str, precision: str, device: str, device_id: int | None) -> None:
        self.name, self.precision, self.device, self.device_id = name, precision, device, device_id
        self.reason = ""
        self.runner = runner
        self._stream: Any = None
        if device_id is not None:
            self._stream = torch.cuda.Stream(device_id)  # type: ignore[no-untyped-call]

    @property
    def batch(self) -> int:
        """Views that are run at once."""
        return int(self.runner.image.shape[0])

    def predict(self, items: Iterable[tuple[T, NDArray[np.uint8]]]) -> Iterator[tuple[T, NDArray[np.float32]]]:
        """See `metaqap_fast.engine.Engine.predict`."""
        for batch in self.batches(items):
            rows = batch.predictions.cpu().numpy()
            start = 0
            for tag, count in zip(batch.tags, batch.counts, strict=True):
                yield tag, rows[start : start + count]
                start += count

    def batches(self, items: Iterable[tuple[T, Any]]) -> Iterator[Batch[T]]:
        """Predictions in order, batch by batch, on the device; views are arrays or tensors [N, S, S, 3] uint8.

        Raises:
            GpuLost: the GPU stopped working.
            MetaqapError: its memory does not hold one view.
        """
        tags: list[T] = []
        waiting: list[Any] = []
        count = 0
        for tag, views in items:
            if count and count + len(views) > self.batch:
                yield self._batch(tags, waiting)
                tags, waiting, count = [], [], 0
            tags.append(tag)
            waiting.append(views)
            count += len(views)
        if tags:
            yield self._batch(tags, waiting)

    def on_stream(self) -> AbstractContextManager[Any]:
        """Work inside is queued behind this engine's."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def close(self) -> None:
        """Release the device's memory."""
        self.runner.close()

    def _batch(self, tags: list[T], waiting: list[Any]) -> Batch[T]:
        counts = [len(views) for views in waiting]
        try:
            while True:
                try:
                    with self.on_stream(), torch.inference_mode():
                        return Batch(tags, counts, self._run(waiting, sum(counts)))
                except RuntimeError as error:
                    if not out_of_memory(error):
                        raise
                    self._halve()
        except RuntimeError as error:
            if lost(error):
                first = str(error).strip().splitlines()[0]
                raise GpuLost(
                    f"{self.device} stopped working: {first}. Rows committed so far are safe; go on with --resume"
                ) from None
            raise

    def _run(self, waiting: list[Any], total: int) -> Tensor:
        image = self.runner.image
        out = torch.empty(total, self.runner.members, device=image.device)
        done = filled = 0
        for views in waiting:
            pixels = torch.from_numpy(views) if isinstance(views, np.ndarray) else views
            if self._stream is not None and pixels.is_cuda:
                pixels.record_stream(self._stream)  # its memory is not reused before this stream has read it
            while len(pixels):
                count = min(len(pixels), len(image) - filled)
                image[filled : filled + count].copy_(pixels[:count], non_blocking=True)
                pixels, filled = pixels[count:], filled + count
                if filled == len(image):
                    out[done : done + filled] = self.runner.run(filled)
                    done, filled = done + filled, 0
        if filled:
            out[done:] = self.runner.run(filled)
        return out

    def _halve(self) -> None:
        half = self.batch // 2
        if not half:
            raise MetaqapError(f"{self.device} has too little free memory for a single view: free some, or use the cpu")
        log.warning("%s has too little memory for %d views at once: going on with %d", self.device, self.batch, half)
        while True:
            try:
                self.runner.resize(half)
                return
            except RuntimeError as error:
                if not out_of_memory(error) or half == 1:
                    raise
                half //= 2


class Graphs:
    """One CUDA graph for each shape; on a CPU, or where capture is refused, plain calls.

    Args:
        step: runs the first `n` rows of fixed buffers on the current stream, without allocating.
    """

    def __init__(self, step: Any, cuda: bool) -> None:
        self._step, self._cuda = step, cuda
        self._graphs: dict[int, Any] = {}

    def __call__(self, shape: int) -> None:
        """Run one shape; captured when it is first seen."""
        if not self._cuda:
            self._step(shape)
            return
        if shape not in self._graphs:
            self._graphs[shape] = self._capture(shape)
        if self._graphs[shape] is None:
            self._step(shape)
        else:
            self._graphs[shape].replay()

    @property
    def captured(self) -> bool:
        """Whether what ran last runs as a graph."""
        return any(graph is not None for graph in self._graphs.values())

    def clear(self) -> None:
        """Forget the graphs and their memory."""
        self._graphs.clear()

    def _capture(self, shape: int) -> Any:
        for _ in range(3):  # libraries choose kernels and allocate in their first runs
            self._step(shape)
        torch.cuda.current_stream().synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"):
                self._step(shape)
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            log.warning("no CUDA graph for %d views (%s): running without", shape, str(error).splitlines()[0])
            return None
        return graph


def shape_for(count: int, batch: int, exact: bool) -> int:
    """Rows to run for `count` views.

    Libraries choose kernels by shape, and kernels round differently: in fp32 every view is run in a full
    batch, so that its score is the same bits in any company; elsewhere in the next power of two.
    """
    return batch if exact else min(batch, 1 << max(0, count - 1).bit_length())
