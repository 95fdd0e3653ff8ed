"""ONNX graphs to TensorRT engines, with TensorRT (10.x late, 11) or TensorRT-RTX: one API, one code.

TensorRT builds for the GPU that is there. TensorRT-RTX also builds for others, without any GPU.
"""

from __future__ import annotations

import importlib
import logging
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from metaqap_fast.engine.gpu import plan_cache as cache
from metaqap_fast.engine.protocol import Unsuited
from metaqap_fast.errors import MetaqapError, UsageError

log = logging.getLogger(__name__)
# The distributions `tensorrt` and `tensorrt-rtx` are thin names for the bindings, which may also stand alone.
# By kind, in the order in which they are looked for.
MODULES = {
    "tensorrt": ("tensorrt", "tensorrt_bindings"),
    "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
    "tensorrt_lean": ("tensorrt_lean", "tensorrt_lean_bindings"),
}
EXTRAS = {"tensorrt": "tensorrt", "tensorrt_rtx": "rtx", "tensorrt_lean": "lean"}
OLDEST = (10, 8)
RTX_TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121", "current")


@dataclass(frozen=True, slots=True)
class Library:
    """TensorRT's Python module. `kind` is `tensorrt`, `tensorrt_rtx` or `tensorrt_lean`."""

    trt: Any
    kind: str

    @property
    def version(self) -> str:
        """As recorded in cache keys and score files."""
        return f"{self.kind} {self.trt.__version__}"

    @property
    def is_rtx(self) -> bool:
        """Whether it builds for GPUs that are not there."""
        return self.kind == "tensorrt_rtx"

    @property
    def builds(self) -> bool:
        """Whether it builds engines; the lean runtime only runs those that are built to be portable."""
        return self.kind != "tensorrt_lean"


@dataclass(frozen=True, slots=True)
class Options:
    """How to build; all of it is part of the cache key.

    `targets` (TensorRT-RTX only): such as sm89, or `current`; empty for what the library takes by itself. `portable`:
    an engine for other GPUs from Ampere on. `compatible`: one that later versions of the library load. `level`: the
    builder's effort, 0 to 5. `workspace`: scratch memory that the engine may use, in bytes, None for all there is.
    """

    targets: tuple[str, ...] = ()
    portable: bool = False
    compatible: bool = False
    level: int | None = None
    workspace: int | None = None

    def as_pairs(self) -> tuple[tuple[str, str], ...]:
        """For the cache key."""
        values = {"portable": self.portable, "compatible": self.compatible, "level": self.level}
        return tuple((name, str(value)) for name, value in (values | {"workspace": self.workspace}).items())


def find(kind: str | None = None, target: str | None = None) -> Library:
    """An installed TensorRT; the full one before TensorRT-RTX, and that before the lean runtime.

    Args:
        kind: `tensorrt`, `tensorrt_rtx` or `tensorrt_lean` for that one alone.
        target: the GPU that it must run on, such as sm90.

    Raises:
        Unsuited: none is installed, none loads, or none is for that GPU; the message says what to install.
    """
    problems = []
    for own in MODULES if kind is None else (kind,):
        for name in MODULES[own]:
            try:
                module = importlib.import_module(name)
            except ModuleNotFoundError as error:
                if error.name != name:
                    problems.append(f"{name}: {error}")
                continue
            except (ImportError, OSError) as error:
                problems.append(f"{name} does not load: {error}")
                continue
            if not hasattr(module, "Runtime"):
                continue
            if problem := _problem(Library(module, own), target):
                problems.append(problem)
                continue
            return Library(module, own)
    if problems:
        raise Unsuited("; ".join(problems))
    raise Unsuited(f"TensorRT is not installed: pip install 'metaqap-fast[{EXTRAS[kind or 'tensorrt']}]'")


def _problem(library: Library, target: str | None) -> str:
    """Why this library cannot be used; empty if it can."""
    number = tuple(int(n) for n in re.findall(r"\d+", library.trt.__version__)[:2])
    if not library.is_rtx and number < OLDEST:
        return f"TensorRT {library.trt.__version__} is too old, {OLDEST[0]}.{OLDEST[1]} is needed"
    if library.is_rtx and target is not None and target not in RTX_TARGETS:
        return f"{library.version} does not build for {target}, only for {', '.join(RTX_TARGETS[:-1])}"
    return ""


class Log:
    """TensorRT's messages: errors are kept for our own message, the rest goes to this module's logger."""

    def __init__(self, trt: Any) -> None:
        errors: list[str] = []
        severe = (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)

        class Forward(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, text: str) -> None:
                if severity in severe:
                    errors.append(text)
                log.debug("%s", text)

        self.errors, self.logger = errors, Forward()

    def last(self) -> str:
        """The last error, in one line."""
        return " ".join(self.errors[-1].split()) if self.errors else "no reason given"


def build(
    library: Library,
    graph: bytes,
    size: int,
    batch: int,
    options: Options | None = None,
    timing: str | None = None,
) -> bytes:
    """Build an engine.

    Args:
        library: from `find`.
        graph: ONNX; `image` [B, size, size, 3] uint8, a free batch, precision in its types.
        batch: the one that the engine will run. A range would leave kernels, and with them the scores' last bits, to
            be chosen when it runs.
        options: see `Options`.
        timing: name of the timing cache to use and to extend.

    Raises:
        UsageError: targets for a library that has none, or an unknown one.
        MetaqapError: TensorRT refuses the graph or fails; the message is its last error.
    """
    options = options or Options()
    trt = library.trt
    messages = Log(trt)
    try:
        builder = trt.Builder(messages.logger)
    except (TypeError, RuntimeError) as error:  # pybind's answer to a null pointer: no driver
        raise MetaqapError(f"{library.version} cannot build on this machine: {messages.last()} ({error})") from None
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, messages.logger)
    if not parser.parse(graph):
        reasons = [str(parser.get_error(i)).strip() for i in range(parser.num_errors)]
        raise MetaqapError(f"{library.version} cannot read the network: {'; '.join(reasons)}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means fp32
    optimisation = builder.create_optimization_profile()
    optimisation.set_shape("image", *[(batch, size, size, 3)] * 3)  # smallest, usual, largest
    config.add_optimization_profile(optimisation)
    config.max_aux_streams = 0  # one stream, which is captured; more would run unasked beside the decoder's
    if library.is_rtx:
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # else a stream that runs it cannot be captured
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    if options.level is not None:
        config.builder_optimization_level = options.level
    if options.compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.portable:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    _set_targets(library, config, options.targets)
    if timing:
        config.set_timing_cache(config.create_timing_cache(cache.timings(_safe(timing))), False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise MetaqapError(f"{library.version} failed to build the network: {messages.last()}")
    if timing and (timings := config.get_timing_cache()) is not None:
        cache.save_timings(_safe(timing), bytes(timings.serialize()))
    return bytes(plan)


def check_targets(library: Library, targets: Iterable[str]) -> list[str]:
    """Targets in the library's spelling.

    Raises:
        UsageError: it builds for no other GPU than the one at hand, or not for these.
    """
    names = [target.lower() for target in targets]
    if names and not library.is_rtx:
        raise UsageError(f"{library.version} builds for the GPU at hand only: leave out --target, or use TensorRT-RTX")
    unknown = [name for name in names if name not in RTX_TARGETS]
    if unknown:
        raise UsageError(f"{library.version} has no target {', '.join(unknown)}: one of {', '.join(RTX_TARGETS)}")
    return names


def _set_targets(library: Library, config: Any, targets: Iterable[str]) -> None:
    names = check_targets(library, targets)
    if names:
        config.num_compute_capabilities = len(names)
    for place, name in enumerate(names):
        config.set_compute_capability(getattr(library.trt.ComputeCapability, name.upper()), place)


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)


def installed() -> bool:
    """Whether any TensorRT seems to be there. Imports none."""
    return any(name in sys.modules or find_spec(name) is not None for names in MODULES.values() for name in names)
