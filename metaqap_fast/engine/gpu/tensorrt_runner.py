"""Running TensorRT's engines on torch's device memory, for one batch, in one CUDA graph.

Inputs, outputs and scratch memory are torch tensors, so that no allocation happens after the start and full memory is
torch's own error.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from metaqap_fast.engine.gpu.engine import Graph, on, stream_for
from metaqap_fast.engine.gpu.tensorrt_build import Library, Log
from metaqap_fast.engine.protocol import Unsuited
from metaqap_fast.errors import MetaqapError


class EngineRefused(MetaqapError):
    """The library does not load an engine: it was built for another GPU or version."""


class TensorRTRunner:
    """See `metaqap_fast.engine.gpu.engine.Runner`.

    Args:
        library: from `find`.
        plans: one engine for all members, or one for each; `image` -> `predictions`, for this one batch.
        widths: columns of each engine's predictions.
        batch: views at once.
        compiled: what TensorRT-RTX compiled for these engines in an earlier run, see `compiled`; each may be empty.

    Raises:
        EngineRefused: an engine that was not built for this library, GPU and batch.
        Unsuited: the library does not start, for example because of the driver.
    """

    def __init__(
        self,
        library: Library,
        plans: Sequence[bytes],
        size: int,
        widths: Sequence[int],
        batch: int,
        device: str,
        compiled: Sequence[bytes] = (),
    ) -> None:
        self.columns = sum(widths)
        self.digest = hashlib.sha256(b"".join(plans)).hexdigest()
        where = torch.device(device)
        self._messages = Log(library.trt)
        self._runtime = library.trt.Runtime(self._messages.logger)
        if self._messages.errors:  # it may be a null pointer in disguise: every call crashes, and its end does, too
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._runtime))
            raise Unsuited(f"{library.version} does not start: {self._messages.last()}")
        self._runtime.engine_host_code_allowed = True  # version-compatible plans hold code: the cache's are our own
        self.stream = stream_for(where)
        with on(self.stream):
            self.image = torch.zeros(batch, size, size, 3, dtype=torch.uint8, device=where)
            self._out = torch.zeros(batch, self.columns, device=where)
            self._parts = [
                _Part.make(library, self._engine(library, plan), self.image, width, len(plans) > 1, known)
                for plan, width, known in zip(plans, widths, compiled or repeat(b""), strict=False)
            ]
            if not all(self._parts):
                raise EngineRefused(f"{library.version} does not take a batch of {batch}: {self._messages.last()}")
            refusal = "" if self.stream is None or self._capturable() else "TensorRT cannot be captured here"
            self._graph = Graph(self._step, self.stream, refusal)

    def _engine(self, library: Library, plan: bytes) -> Any:
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineRefused(f"{library.version} does not load the engine: {self._messages.last()}")
        return engine

    def _capturable(self) -> bool:
        """By TensorRT-RTX's own word, where the library has one."""
        asks = [getattr(part.context, "is_stream_capturable", lambda _: True) for part in self._parts if part]
        return all(ask(self.stream.cuda_stream) for ask in asks)

    def run(self) -> Tensor:
        """See `Runner.run`."""
        self._graph()
        return self._out

    def _step(self) -> None:
        parts = [part for part in self._parts if part]
        for part in parts:
            if not part.start():
                raise RuntimeError(f"TensorRT did not run: {self._messages.last()}")
        place = 0
        for part in parts:
            width = part.out.shape[1]
            self._out[:, place : place + width].copy_(part.join())
            place += width

    @property
    def captured(self) -> bool:
        """Whether it runs as a CUDA graph."""
        return self._graph.captured

    def compiled(self) -> list[bytes]:
        """What TensorRT-RTX compiled at the start, to be given to the next runner; empty with another library."""
        return [bytes(part.cache.serialize()) for part in self._parts if part and part.cache is not None]

    def close(self) -> None:
        """See `Runner.close`."""
        self._graph.clear()
        self._parts.clear()
        self.image = self._out = torch.empty(0)


@dataclass(slots=True)
class _Part:
    """One engine's context, its output and scratch memory, and a stream if it runs beside others."""

    context: Any
    out: Tensor
    scratch: Tensor
    stream: Any
    cache: Any

    @staticmethod
    def make(library: Library, engine: Any, image: Tensor, width: int, beside: bool, known: bytes) -> _Part | None:
        """Ready to run on this input; None if the engine does not take it. The shape is not set again."""
        context, cache = _context(library, engine, known)
        out = torch.zeros(len(image), width, device=image.device)
        addresses = {"image": image, "predictions": out}
        if not all(context.set_tensor_address(name, tensor.data_ptr()) for name, tensor in addresses.items()):
            return None
        if not context.set_input_shape("image", tuple(image.shape)):
            return None
        need = max(1, int(context.update_device_memory_size_for_shapes()))
        scratch = torch.empty(need, dtype=torch.uint8, device=image.device)
        context.set_device_memory(scratch.data_ptr(), need)
        return _Part(context, out, scratch, stream_for(image.device) if beside else None, cache)

    def start(self) -> bool:
        """Queue the engine, on its own stream behind the current one."""
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream())
            return bool(self.context.execute_async_v3(self.stream.cuda_stream))
        on_gpu = self.out.is_cuda
        return bool(self.context.execute_async_v3(torch.cuda.current_stream().cuda_stream if on_gpu else 0))

    def join(self) -> Tensor:
        """Its output; the current stream waits for it."""
        if self.stream is not None:
            torch.cuda.current_stream().wait_stream(self.stream)
        return self.out


def _context(library: Library, engine: Any, known: bytes) -> tuple[Any, Any]:
    """A context that leaves scratch memory to us; with TensorRT-RTX also the cache of what it compiles at the start.

    TensorRT-RTX compiles on the GPU at hand: everything before the first run (EAGER), since what it would swap in
    later is not in a graph that was captured before.
    """
    trt, cache = library.trt, None
    how: Any = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    if library.is_rtx:
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(how)
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        cache = config.create_runtime_cache()
        if known:
            cache.deserialize(known)  # refused if it is of another library or GPU: then it is compiled again
        config.set_runtime_cache(cache)
        how = config
    context = engine.create_execution_context(how)
    if context is None:
        raise RuntimeError("TensorRT gave no context: out of memory")
    return context, cache
