"""TensorRT and TensorRT-RTX on a GPU: engines from the cache or built, run on torch's device memory.

All members are one engine, or each is one on a stream of its own (`layout`). Inputs, outputs and scratch memory
are torch tensors, so that no allocation happens after the first batch and full memory is torch's own error.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metaqap_fast.engine.cuda import Gpu
from metaqap_fast.engine.deviation import deviation, generated
from metaqap_fast.engine.gpu import lowering as graph
from metaqap_fast.engine.gpu import plan_cache as cache
from metaqap_fast.engine.gpu.engine import DeviceEngine, Graphs, shape_for
from metaqap_fast.engine.gpu.tensorrt_build import RTX_TARGETS, Library, Log, Options, build, check_targets, find
from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.model.bundle import Bundle, Member

log = logging.getLogger(__name__)
BATCH = 64
FIRST_FP8 = 89  # Ada; Hopper is 90
LAYOUTS = ("merged", "members")


class EngineRefused(MetaqapError):
    """The library does not load an engine: it was built for another GPU or version."""


class TensorRTRunner:
    """See `metaqap_fast.engine.gpu.engine.Runner`.

    Args:
        library: from `find`.
        plans: one engine for all members, or one for each; `image` -> `predictions`.
        members: of all engines together.
        batch: views at once; not more than the engines' profiles allow.
        exact: run every batch in full, see `shape_for`.

    Raises:
        EngineRefused: an engine that was not built for this library and GPU.
    """

    def __init__(
        self, library: Library, plans: Sequence[bytes], size: int, members: int, batch: int, device: str, exact: bool
    ) -> None:
        self.members = members
        self._size, self._device, self._exact = size, torch.device(device), exact
        trt, self._messages = library.trt, Log(library.trt)
        self._runtime = trt.Runtime(self._messages.logger)
        self._parts: list[_Part] = []
        for plan in plans:
            engine = self._runtime.deserialize_cuda_engine(plan)
            if engine is None:
                raise EngineRefused(f"{library.version} does not load the engine: {self._messages.last()}")
            self._parts.append(_Part(engine, _context(trt, engine), self._device, len(plans) > 1))
        self._graphs = Graphs(self._step, self._device.type == "cuda")
        self.resize(batch)

    def resize(self, batch: int) -> None:
        """See `Runner.resize`."""
        self._graphs.clear()
        self.image = self._out = torch.empty(0)
        for part in self._parts:
            part.drop()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self.image = torch.zeros(batch, self._size, self._size, 3, dtype=torch.uint8, device=self._device)
        self._out = torch.zeros(batch, self.members, device=self._device)
        width = self.members // len(self._parts)
        for part in self._parts:
            part.bind(self.image, torch.zeros(batch, width, device=self._device))

    def run(self, count: int) -> Tensor:
        """See `Runner.run`."""
        shape = shape_for(count, len(self.image), self._exact)
        moved = [part.prepare(shape) for part in self._parts]
        if any(moved):
            self._graphs.clear()  # scratch memory has moved
        self._graphs(shape)
        return self._out[:count]

    def _step(self, shape: int) -> None:
        for part in self._parts:
            if not part.start(shape):
                raise RuntimeError(f"TensorRT did not run: {self._messages.last()}")
        for place, part in enumerate(self._parts):
            result = part.join()[:shape]
            width = result.shape[1]
            self._out[:shape, place * width : (place + 1) * width].copy_(result)

    def close(self) -> None:
        """See `Runner.close`."""
        self._graphs.clear()
        self._parts.clear()
        self.image = self._out = torch.empty(0)


@dataclass(slots=True)
class _Part:
    """One engine with its context, its output and scratch memory, and a stream if it runs beside others."""

    engine: Any
    context: Any
    device: torch.device
    beside: bool
    out: Tensor | None = None
    scratch: Tensor | None = None
    stream: Any = None
    view: tuple[int, ...] = ()

    def drop(self) -> None:
        self.out = self.scratch = None

    def bind(self, image: Tensor, out: Tensor) -> None:
        self.out = out
        self.context.set_tensor_address("image", image.data_ptr())
        self.context.set_tensor_address("predictions", out.data_ptr())
        if self.beside and self.device.type == "cuda" and self.stream is None:
            self.stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self.view = tuple(image.shape[1:])
        self.prepare(len(image))

    def prepare(self, shape: int) -> bool:
        """Set the batch; whether the scratch memory had to be made anew."""
        self.context.set_input_shape("image", (shape, *self.view))
        need = int(self.context.update_device_memory_size_for_shapes())
        if self.scratch is not None and self.scratch.numel() >= need:
            return False
        self.scratch = None
        self.scratch = torch.empty(max(need, 1), dtype=torch.uint8, device=self.device)
        self.context.set_device_memory(self.scratch.data_ptr(), self.scratch.numel())
        return True

    def start(self, shape: int) -> bool:
        """Queue the engine, on its own stream behind the current one."""
        if self.stream is None:
            handle = torch.cuda.current_stream().cuda_stream if self.device.type == "cuda" else 0
        else:
            self.stream.wait_stream(torch.cuda.current_stream())
            handle = self.stream.cuda_stream
        return bool(self.context.execute_async_v3(handle))

    def join(self) -> Tensor:
        """Its output; the current stream waits for it."""
        if self.stream is not None:
            torch.cuda.current_stream().wait_stream(self.stream)
        assert self.out is not None
        return self.out


def _context(trt: Any, engine: Any) -> Any:
    """A context that leaves scratch memory to us."""
    context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    if context is None:
        raise RuntimeError("TensorRT gave no context: out of memory")
    return context


def create(
    bundle: Bundle,
    precision: str,
    gpu: Gpu,
    batch: int | None = None,
    layout: str = "merged",
    library: Library | None = None,
    options: Options | None = None,
) -> DeviceEngine:
    """The TensorRT engine: from the cache, or built (which takes from seconds to minutes) and kept there.

    Raises:
        UsageError: int8 or fp8 without ranges, fp8 on a GPU that has none.
        MetaqapError: no library, or it refuses the network or the GPU.
    """
    library = library or find()
    options = options or Options()
    where = _where(library, gpu)
    if library.is_rtx and not options.targets:
        options = replace(options, targets=_rtx_targets(where))
    precision = "fp16" if precision == "auto" else precision
    profile = (1, batch or BATCH, batch or BATCH)
    parts = prepare(bundle, precision, layout, library, where, profile, options)

    def start(fresh: bool) -> TensorRTRunner:
        plans = [part.plan(fresh) for part in parts]
        return TensorRTRunner(
            library, plans, bundle.view_size, len(bundle.members), profile[2], gpu.device, precision == "fp32"
        )

    with torch.cuda.device(gpu.index):
        try:
            runner = start(fresh=False)
        except EngineRefused as error:
            if all(part.built for part in parts):
                raise
            log.warning("%s. Building it again", error)
            runner = start(fresh=True)
    engine = DeviceEngine(runner, "tensorrt", precision, f"cuda:{gpu.index}: {gpu.name}", gpu.index)
    engine.reason = library.version
    if any(part.built for part in parts):

        def predict(views: NDArray[np.uint8]) -> NDArray[np.float32]:
            return np.concatenate([rows for _, rows in engine.predict((i, v[None]) for i, v in enumerate(views))])

        views = generated(bundle.view_size)
        report = deviation(bundle, predict, views, "generated", f"{library.version} on {gpu.name}")
        for part in parts:
            part.save({"deviation": report})
    return engine


def _where(library: Library, gpu: Gpu) -> str:
    """What a cached engine is for: an architecture, or (TensorRT) the very model of GPU that it was timed on."""
    return f"sm{gpu.capability}" if library.is_rtx else f"{gpu.name} sm{gpu.capability}"


def _rtx_targets(where: str) -> tuple[str, ...]:
    """TensorRT-RTX's name for it; a GPU that it does not list is tried as the current one."""
    return (where if where in RTX_TARGETS or not torch.cuda.is_available() else "current",)


@dataclass(slots=True)
class Part:
    """One engine to be found or built."""

    key: cache.Key
    library: Library
    model: bytes
    size: int
    options: Options
    built: bytes | None = None

    def plan(self, fresh: bool = False) -> bytes:
        """The engine; `fresh` builds it whatever the cache holds."""
        if not fresh and self.built is None and (found := cache.load(self.key)) is not None:
            return found[0]
        if fresh or self.built is None:
            name = f"{self.key.part} of {self.key.model} in {self.key.precision}"
            log.warning("building an engine with %s for %s: %s", self.library.version, self.key.gpu, name)
            timing = f"{self.library.version}-{self.key.gpu}"
            self.built = build(self.library, self.model, self.size, self.key.profile, self.options, timing)
        return self.built

    def save(self, metadata: dict[str, Any]) -> None:
        """Keep it if it was built."""
        if self.built is not None:
            cache.save(self.key, self.built, metadata)


def prepare(
    bundle: Bundle,
    precision: str,
    layout: str,
    library: Library,
    where: str,
    profile: tuple[int, int, int],
    options: Options,
) -> list[Part]:
    """The engines that a layout needs; nothing is built yet.

    Raises:
        UsageError: an unknown layout, int8 or fp8 without ranges, fp8 for a GPU that has none.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"unknown layout {layout!r}: one of {', '.join(LAYOUTS)}")
    if precision == "fp8" and (found := re.search(r"sm(\d+)$", where)) and int(found[1]) < FIRST_FP8:
        raise UsageError(f"{where} has no fp8, which begins with sm{FIRST_FP8}: use --precision int8 or fp16")
    groups: Iterable[tuple[str, tuple[Member, ...]]] = (
        [("merged", bundle.members)] if layout == "merged" else [(m.name, (m,)) for m in bundle.members]
    )
    parts = []
    for name, members in groups:
        model = graph.merged(bundle, precision, members)
        key = cache.Key(
            bundle.name, name, precision, graph.digest(model), library.version, where, profile, options.as_pairs()
        )
        parts.append(Part(key, library, model.SerializeToString(), bundle.view_size, options))
    return parts


def compile_bundle(
    bundle: Bundle,
    precision: str,
    layout: str,
    library: Library,
    gpu: Gpu | None,
    targets: Sequence[str],
    batch: int,
    views: NDArray[np.uint8],
    images: str,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Build a bundle's engines into the cache; returns their metadata.

    Without targets they are for `gpu` and measured on it; with targets each engine's deviation is that of the
    graph it is built from, run by torch on the CPU.
    """
    from metaqap_fast.engine.deviation import graph_predict

    targets = check_targets(library, targets)
    if not targets:
        if gpu is None:
            raise UsageError("there is no GPU to build for: name targets, for example --target sm89, or use a GPU")
        targets = [_where(library, gpu)]
    report = deviation(bundle, graph_predict(bundle, precision), views, images, "the graph, by torch on the cpu")
    say(f"{precision}: scores move by at most {report['score_max']:.5f}, on average {report['score_mean']:.5f}")
    documents = []
    for target in targets:
        options = Options(targets=_rtx_targets(target) if library.is_rtx else ())
        for part in prepare(bundle, precision, layout, library, target, (1, batch, batch), options):
            if (found := cache.load(part.key)) is not None:
                say(f"{target}: {part.key.part} is there already")
                documents.append(found[1])
                continue
            plan = part.plan()
            part.save({"deviation": report})
            say(f"{target}: {part.key.part}, {len(plan) / 1e6:.1f} MB, with {library.version}")
            documents.append({"key": part.key.as_dict(), "deviation": report})
    return documents
