"""TensorRT and TensorRT-RTX on a GPU: engines from the cache, or built and kept there.

All members are one engine, or each is one on a stream of its own (`layout`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metaqap_fast.engine.cuda import Gpu
from metaqap_fast.engine.deviation import deviation
from metaqap_fast.engine.gpu import lowering as graph
from metaqap_fast.engine.gpu import plan_cache as cache
from metaqap_fast.engine.gpu.engine import DeviceEngine, fitting
from metaqap_fast.engine.gpu.tensorrt_build import Library, Options, build, check_targets, find
from metaqap_fast.engine.gpu.tensorrt_runner import EngineRefused, TensorRTRunner
from metaqap_fast.engine.protocol import Unsuited
from metaqap_fast.engine.samples import generated
from metaqap_fast.errors import UsageError
from metaqap_fast.model.bundle import Bundle, Member

log = logging.getLogger(__name__)
BATCH = 64
FIRST_FP8 = 89  # Ada; Hopper is 90
LAYOUTS = ("merged", "members")
PORTABLE = "sm80 and newer"  # what an engine is for that is built to run on other GPUs, by other versions


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
            widths = [bundle.readout.columns] if layout == "merged" else [member.columns for member in bundle.members]
            return TensorRTRunner(library, plans, bundle.view_size, widths, batch, gpu.device, known)

        try:
            return start(fresh=False)
        except EngineRefused as error:
            if all(part.built for part in parts):
                raise
            if not library.builds:
                raise Unsuited(
                    f"{error}: an engine runs with the version of TensorRT that built it, or a newer one. Make it "
                    "again with `metaqap-fast compile --portable`, or install a newer lean runtime"
                ) from None
            log.warning("%s. Building it again", error)
            return start(fresh=True)

    # Of several processes that start at once, one builds, and all run the same.
    with torch.cuda.device(gpu.index), cache.alone():
        runner = fitting(make, batch or BATCH, device)
        assert isinstance(runner, TensorRTRunner)
        engine = DeviceEngine(runner, "tensorrt", precision, device, gpu.index)
        _keep(bundle, engine, parts, f"{library.version} on {gpu.name}")
    engine.reason = library.version
    engine.version = f"{library.version}, engine {runner.digest[:16]}"
    return engine


def _keep(bundle: Bundle, engine: DeviceEngine, parts: Sequence[Part], how: str) -> None:
    """What was built goes into the cache, with what it does to scores; so does what was compiled at the start."""
    if any(part.built for part in parts):

        def predict(views: NDArray[np.uint8]) -> NDArray[np.float32]:
            return np.concatenate([rows for _, rows in engine.predict((i, v[None]) for i, v in enumerate(views))])

        report = deviation(bundle, predict, generated(bundle.view_size), "generated", how)
        for part in parts:
            part.save({"deviation": report})
    assert isinstance(engine.runner, TensorRTRunner)
    for part, data in zip(parts, engine.runner.compiled(), strict=False):
        part.save_compiled(data)


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
