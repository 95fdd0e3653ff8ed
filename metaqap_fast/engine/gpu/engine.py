"""Engines on a GPU: images gathered into batches on the device, predictions that stay there.

Whole images fill a batch, views of one image stand side by side. What runs the batch is a `Runner`: TensorRT
or torch. The torch runner also works on a CPU, slowly; there it is the reference of the parity tests.

There is one shape, the full batch: libraries choose kernels by shape, and kernels round differently, so a view's score
does not depend on its company; and one CUDA graph, captured at the start, before anything else uses the device.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metaqap_fast.engine.protocol import Batch, Engine, T
from metaqap_fast.errors import MetaqapError
from metaqap_fast.gpu_errors import first_line, out_of_memory, translated, wait
from metaqap_fast.records import DeviceViews

log = logging.getLogger(__name__)


class Runner(Protocol):
    """A network with fixed buffers on one device, ready to run: whatever it needs is there when it has been made.

    `image` is its input [batch, S, S, 3] uint8; rows of a result depend on their own view alone. `stream` is the
    CUDA stream that it runs on, None on a CPU.
    """

    image: Tensor
    columns: int
    stream: Any

    def run(self) -> Tensor:
        """Predictions [batch, columns] float32 of all views in `image`; valid until the next call."""
        ...

    def close(self) -> None:
        """Free the device's memory."""
        ...


class DeviceEngine(Engine):
    """See `metaqap_fast.engine.protocol.Engine`; `batches` leaves predictions on the device.

    Args:
        runner: the network.
        name, precision, device: what runs, for the score file.
        device_id: number of the GPU, None on a CPU.
    """

    def __init__(self, runner: Runner, name: str, precision: str, device: str, device_id: int | None) -> None:
        self.name, self.precision, self.device, self.device_id = name, precision, device, device_id
        self.runner = runner

    @property
    def batch(self) -> int:
        """Views that are run at once."""
        return int(self.runner.image.shape[0])

    def predict(self, items: Iterable[tuple[T, NDArray[np.uint8]]]) -> Iterator[tuple[T, NDArray[np.float32]]]:
        """See `metaqap_fast.engine.protocol.Engine.predict`."""
        for batch in self.batches(items):
            with translated(self.device), self.on_stream():
                rows = torch.as_tensor(batch.predictions).cpu().numpy()
            start = 0
            for tag, count in zip(batch.tags, batch.counts, strict=True):
                yield tag, rows[start : start + count]
                start += count

    def batches(self, items: Iterable[tuple[T, Any]]) -> Iterator[Batch[T]]:
        """Predictions in order, batch by batch, on the device; views are arrays or `DeviceViews`, [N, S, S, 3] uint8.

        Raises:
            GpuLost: the GPU stopped working.
            MetaqapError: its memory is full.
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
        """See `metaqap_fast.engine.protocol.Engine.on_stream`."""
        return on(self.runner.stream)

    def read_back(self, rows: Tensor) -> Callable[[], NDArray[np.float32]]:
        """See `metaqap_fast.engine.protocol.Engine.read_back`.

        CUDA's errors are late: it is when waiting that a lost GPU shows (`GpuLost`).
        """
        stream = self.runner.stream
        if stream is None:
            return rows.numpy
        with on(stream):
            out = torch.empty(rows.shape, pin_memory=True)
            out.copy_(rows, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(stream)

        def rows_there() -> NDArray[np.float32]:
            with translated(self.device):
                wait(event, self.device)
            return out.numpy()

        return rows_there

    def close(self) -> None:
        """Release the device's memory."""
        self.runner.close()

    def _batch(self, tags: list[T], waiting: list[Any]) -> Batch[T]:
        counts = [len(views) for views in waiting]
        with translated(self.device), self.on_stream(), torch.inference_mode():
            return Batch(tags, counts, self._run(waiting, sum(counts)))

    def _run(self, waiting: list[Any], total: int) -> Tensor:
        """Every run is of a full batch; rows that no view fills hold what they held, and are left out."""
        image = self.runner.image
        out = torch.empty(total, self.runner.columns, device=image.device)
        done = filled = 0
        for pixels in map(self._pixels, together(waiting)):
            while len(pixels):
                count = min(len(pixels), len(image) - filled)
                image[filled : filled + count].copy_(pixels[:count], non_blocking=True)
                pixels, filled = pixels[count:], filled + count
                if filled == len(image):
                    out[done : done + filled] = self.runner.run()
                    done, filled = done + filled, 0
        if filled:
            out[done:] = self.runner.run()[:filled]
        return out

    def _pixels(self, views: Any) -> Tensor:
        """Views as a tensor that this engine's stream may read."""
        if isinstance(views, np.ndarray):
            return torch.from_numpy(views)
        pixels: Tensor = views.batch.pixels[views.start : views.stop]
        if self.runner.stream is not None:
            self.runner.stream.wait_event(views.batch.ready)
            pixels.record_stream(self.runner.stream)  # its memory is not reused before this stream has read it
        return pixels


def together(waiting: Iterable[Any]) -> Iterator[Any]:
    """The same views, those that lie side by side on the device as one: a copy a lane's batch, not one an image."""
    batch: Any = None  # with `start` and `stop`, what lies side by side so far
    start = stop = 0
    for views in waiting:
        if isinstance(views, DeviceViews) and views.batch is batch and views.start == stop:
            stop = views.stop
            continue
        if start < stop:
            yield DeviceViews(batch, start, stop)
        if isinstance(views, DeviceViews):
            batch, start, stop = views.batch, views.start, views.stop
            continue
        batch, start, stop = None, 0, 0
        if len(views):
            yield views
    if start < stop:
        yield DeviceViews(batch, start, stop)


def fitting(make: Callable[[int], Runner], batch: int, device: str) -> Runner:
    """A runner for as large a batch as the device's memory holds: a half of it, and so on, where it does not.

    Raises:
        MetaqapError: not even a single view fits.
    """
    while True:
        try:
            return make(batch)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        if batch == 1:
            raise MetaqapError(f"{device} has too little free memory for a single view: free some, or use the cpu")
        half = batch // 2
        log.warning("%s has too little memory for %d views at once: going on with %d", device, batch, half)
        batch = half
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class Graph:
    """A step as one CUDA graph, captured when this is made; plain calls on a CPU, or where capture is refused.

    Args:
        step: works on fixed buffers, on the current stream, without allocating.
        stream: the CUDA stream that it will run on, not the default one; None on a CPU.
        refusal: why the step cannot be captured, as far as is known before trying; empty if nothing is against it.
    """

    def __init__(self, step: Callable[[], None], stream: Any, refusal: str = "") -> None:
        self._step = step
        self._graph: Any = None
        if stream is None:
            return
        if refusal:
            log.warning("no CUDA graph (%s): running without", refusal)
            return
        with torch.cuda.stream(stream), torch.inference_mode():
            for _ in range(3):  # libraries choose kernels and allocate in their first runs
                step()
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    step()
            except RuntimeError as error:
                if out_of_memory(error):
                    raise
                log.warning("no CUDA graph (%s): running without", first_line(error))
            else:
                self._graph = graph

    def __call__(self) -> None:
        """Run it once."""
        if self._graph is None:
            self._step()
        else:
            self._graph.replay()

    @property
    def captured(self) -> bool:
        """Whether it runs as a graph."""
        return self._graph is not None

    def clear(self) -> None:
        """Free the graph and its memory."""
        self._graph = None


def stream_for(device: torch.device) -> Any:
    """A CUDA stream of its own for a runner; None on a CPU."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]


def on(stream: Any) -> AbstractContextManager[Any]:
    """Makes it the current stream; on a CPU, where there is none, nothing."""
    return nullcontext() if stream is None else torch.cuda.stream(stream)
