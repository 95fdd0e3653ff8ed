"""TensorRT and TensorRT-RTX on a GPU: engines from the cache or built, run on torch's device memory.

All members are one engine, or each is one on a stream of its own (`layout`). Inputs, outputs and scratch memory
are torch tensors, so that no allocation happens after the first batch and full memory is torch's own error.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metaqap_fast.engine.cuda import Gpu
from metaqap_fast.engine.deviation import deviation
from metaqap_fast.engine.gpu import lowering as graph
from metaqap_fast.engine.gpu import plan_cache as cache
from metaqap_fast.engine.gpu.engine import DeviceEngine, Graph, fitting, on, stream_for
from metaqap_fast.engine.gpu.tensorrt_build import Library, Log, Options, build, check_targets, find
from metaqap_fast.engine.protocol import Unsuited
from metaqap_fast.engine.samples import generated
from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.model.bundle import Bundle, Member

log = logging.getLogger(__name__)
BATCH = 64
FIRST_FP8 = 89  # Ada; Hopper is 90
LAYOUTS = ("merged", "members")
PORTABLE = "sm80 and newer"  # what an engine is for that is built to run on other GPUs, by other versions


class EngineRefused(MetaqapError):
    """The library does not load an engine: it was built for another GPU or version."""


class TensorRTRunner:
    """See `metaqap_fast.engine.gpu.engine.Runner`.

    Args:
        library: from `find`.
        plans: one engine for all members, or one for each; `image` -> `predictions`, for this one batch.
        members: of all engines together.
        batch: views at once.
        compiled: what TensorRT-RTX compiled for these engines in an earlier run, see `compiled`; each may be empty.

    Raises:
        EngineRefused: an engine that was not built for this library, GPU and batch.
    """

    def __init__(
        self,
        library: Library,
        plans: Sequence[bytes],
        size: int,
        members: int,
        batch: int,
        device: str,
        compiled: Sequence[bytes] = (),
    ) -> None:
        self.members = members
        self.digest = hashlib.sha256(b"".join(plans)).hexdigest()
        where = torch.device(device)
        self._messages = Log(library.trt)
        self._runtime = library.trt.Runtime(self._messages.logger)
        self._runtime.engine_host_code_allowed = True  # version-compatible plans hold code: the cache's are our own
        self.stream = stream_for(where)
        width = members // len(plans)
        with on(self.stream):
            self.image = torch.zeros(batch, size, size, 3, dtype=torch.uint8, device=where)
            self._out = torch.zeros(batch, members, device=where)
            self._parts = [
                _Part.make(library, self._engine(library, plan), self.image, width, len(plans) > 1, known)
                for plan, known in zip_longest(plans, compiled, fillvalue=b"")
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
        for place, part in enumerate(parts):
            width = part.out.shape[1]
            self._out[:, place * width : (place + 1) * width].copy_(part.join())

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
    target = f"sm{gpu.capability}"
    library = library or find(target=target)
    options = options or Options(portable=not library.builds, compatible=not library.builds)
    where = _where(library, gpu, options)
    if library.is_rtx and not options.targets:
        options = replace(options, targets=(target,))
    precision = "fp16" if precision == "auto" else precision
    device = f"cuda:{gpu.index}: {gpu.name}"
    parts: list[Part] = []

    def make(batch: int) -> TensorRTRunner:
        parts[:] = prepare(bundle, precision, layout, library, where, batch, options)

        def start(fresh: bool) -> TensorRTRunner:
            plans = [part.plan(fresh) for part in parts]
            known = [part.compiled() for part in parts]
            return TensorRTRunner(library, plans, bundle.view_size, len(bundle.members), batch, gpu.device, known)

        try:
            return start(fresh=False)
        except EngineRefused as error:
            if all(part.built for part in parts):
                raise
            log.warning("%s. Building it again", error)
            return start(fresh=True)

    with torch.cuda.device(gpu.index):
        runner = fitting(make, batch or BATCH, device)
    assert isinstance(runner, TensorRTRunner)
    engine = DeviceEngine(runner, "tensorrt", precision, device, gpu.index)
    engine.reason = library.version
    engine.version = f"{library.version}, engine {runner.digest[:16]}"
    if any(part.built for part in parts):

        def predict(views: NDArray[np.uint8]) -> NDArray[np.float32]:
            return np.concatenate([rows for _, rows in engine.predict((i, v[None]) for i, v in enumerate(views))])

        views = generated(bundle.view_size)
        report = deviation(bundle, predict, views, "generated", f"{library.version} on {gpu.name}")
        for part in parts:
            part.save({"deviation": report})
    for part, data in zip(parts, runner.compiled(), strict=False):
        part.save_compiled(data)
    return engine


def _where(library: Library, gpu: Gpu, options: Options) -> str:
    """What a cached engine is for: an architecture, or (TensorRT) the very model of GPU that it was timed on."""
    if options.portable:
        return PORTABLE
    return f"sm{gpu.capability}" if library.is_rtx else f"{gpu.name} sm{gpu.capability}"


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
        if not self.library.builds:
            raise Unsuited(
                f"{self.library.version} runs engines, but builds none, and there is none for {self.key.model} in "
                f"{self.key.precision}: make it with `metaqap-fast compile --portable -o FOLDER` where TensorRT is "
                "installed, and set METAQAP_FAST_CACHE to that folder"
            )
        if fresh or self.built is None:
            name = f"{self.key.part} of {self.key.model} in {self.key.precision}"
            log.warning("building an engine with %s for %s: %s", self.library.version, self.key.gpu, name)
            timing = f"{self.library.version}-{self.key.gpu}"
            self.built = build(self.library, self.model, self.size, self.key.batch, self.options, timing)
        return self.built

    def compiled(self) -> bytes:
        """What TensorRT-RTX compiled for it on this GPU before; empty if nothing is kept."""
        return b"" if self.built is not None else cache.load_compiled(self.key)

    def save_compiled(self, data: bytes) -> None:
        """Keep that for the next start."""
        if data and data != self.compiled():
            cache.save_compiled(self.key, data)

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
    batch: int,
    options: Options,
) -> list[Part]:
    """The engines that a layout needs; nothing is built yet.

    Raises:
        UsageError: an unknown layout, int8 or fp8 without ranges, fp8 for a GPU that has none.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"unknown layout {layout!r}: one of {', '.join(LAYOUTS)}")
    if precision == "fp8" and where == PORTABLE:
        raise UsageError("an engine for all GPUs from sm80 on has no fp8: use --precision fp16")
    if precision == "fp8" and (found := re.search(r"sm(\d+)$", where)) and int(found[1]) < FIRST_FP8:
        raise UsageError(f"{where} has no fp8, which begins with sm{FIRST_FP8}: use --precision int8 or fp16")
    groups: Iterable[tuple[str, tuple[Member, ...]]] = (
        [("merged", bundle.members)] if layout == "merged" else [(m.name, (m,)) for m in bundle.members]
    )
    parts = []
    for name, members in groups:
        model = graph.merged(bundle, precision, members)
        key = cache.Key(
            bundle.name,
            name,
            precision,
            graph.digest(model),
            "tensorrt" if options.compatible else library.version,
            where,
            batch,
            options.as_pairs(),
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
    portable: bool = False,
) -> list[dict[str, Any]]:
    """Build a bundle's engines into the cache; returns their metadata.

    Without targets they are for `gpu` and measured on it; with targets each engine's deviation is that of the
    graph it is built from, run by torch on the CPU.
    """
    from metaqap_fast.engine.deviation import graph_predict

    targets = check_targets(library, targets)
    if portable:
        if library.kind != "tensorrt":
            raise UsageError(f"{library.version} makes no portable engines: leave out --portable, or use TensorRT")
        targets = [PORTABLE]
    if not targets:
        if gpu is None:
            raise UsageError("there is no GPU to build for: name targets, for example --target sm89, or use a GPU")
        targets = [_where(library, gpu, Options())]
    report = deviation(bundle, graph_predict(bundle, precision), views, images, "the graph, by torch on the cpu")
    say(f"{precision}: scores move by at most {report['score_max']:.5f}, on average {report['score_mean']:.5f}")
    documents = []
    for target in targets:
        options = Options((target,) if library.is_rtx else (), portable=portable, compatible=portable)
        for part in prepare(bundle, precision, layout, library, target, batch, options):
            if (found := cache.load(part.key)) is not None:
                say(f"{target}: {part.key.part} is there already")
                documents.append(found[1])
                continue
            with torch.cuda.device(gpu.index) if gpu is not None else nullcontext():  # timed on the GPU it is for
                plan = part.plan()
            part.save({"deviation": report})
            say(f"{target}: {part.key.part}, {len(plan) / 1e6:.1f} MB, with {library.version}")
            documents.append({"key": part.key.as_dict(), "deviation": report})
    return documents
