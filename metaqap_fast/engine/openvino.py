"""OpenVINO on a CPU: all members as one network, one view per request, as many requests as streams.

A request holds exactly one view, so an image's score cannot depend on what it was batched with.
"""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from metaqap_fast import forked
from metaqap_fast.engine import T
from metaqap_fast.engine.openvino_int8 import quantize
from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.model.bundle import Bundle

_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


@functools.cache
def shared_core() -> Any:
    """OpenVINO's `Core`, one for the whole process and kept until it ends.

    Its CPU plugin gives the thread that loads it a signal stack, and frees that stack with the last core and compiled
    model, on whichever thread that happens. The first thread would be left with a signal stack that is gone, and the
    next signal it handles (Ctrl-C, the end of a child) would kill the process.

    Raises:
        MetaqapError: OpenVINO is not installed.
    """
    try:
        import openvino as ov
    except ImportError as error:
        raise MetaqapError(f"OpenVINO is not installed: pip install openvino ({error})") from None
    core = ov.Core()
    forked.keep(core)
    return core


@dataclass(slots=True)
class _Image(Generic[T]):
    """An image whose views are in flight."""

    tag: T
    out: NDArray[np.float32]  # [N, M]
    missing: int


class OpenVINOEngine:
    """See `metaqap_fast.engine.Engine`.

    Args:
        bundle: the model.
        precision: `auto` is bf16 on a CPU with AMX or AVX512-BF16 and fp32 elsewhere. OpenVINO's own default depends on
            the CPU without saying so; here it is always pinned.
        threads: CPU threads to use; None for all that the process may run on.
    """

    name = "openvino"
    device_id: int | None = None
    reason = ""

    def __init__(self, bundle: Bundle, precision: str = "auto", threads: int | None = None) -> None:
        core = shared_core()
        import openvino as ov  # there: `shared_core` says so in one line if it is not

        self.precision = default_precision() if precision == "auto" else precision
        if self.precision not in _HINTS:
            raise UsageError(f"OpenVINO has no {self.precision} on a CPU: use fp32, bf16 or int8")
        threads = threads or len(os.sched_getaffinity(0))
        model = merged(core, bundle, int8=self.precision == "int8")
        compiled = core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
                "PERFORMANCE_HINT": "THROUGHPUT",
                "INFERENCE_NUM_THREADS": threads,
                "ENABLE_CPU_PINNING": False,  # decoding threads share these cores
                "CACHE_DIR": str(cache_dir()),
            },
        )
        self.device = f"cpu: {core.get_property('CPU', 'FULL_DEVICE_NAME')}, {threads} threads"
        self._members = len(bundle.members)
        self._queue: Any = ov.AsyncInferQueue(compiled)
        self._queue.set_callback(_collect)

    def predict(self, items: Iterable[tuple[T, NDArray[np.uint8]]]) -> Iterator[tuple[T, NDArray[np.float32]]]:
        """See `metaqap_fast.engine.Engine.predict`."""
        flying: deque[_Image[T]] = deque()
        try:
            for tag, views in items:
                image = _Image(tag, np.empty((len(views), self._members), np.float32), len(views))
                flying.append(image)
                for index, view in enumerate(views):
                    self._queue.start_async({0: view[None]}, (image, index))  # waits for a free request
                while flying and not flying[0].missing:
                    done = flying.popleft()
                    yield done.tag, done.out
        finally:
            self._queue.wait_all()
        for done in flying:
            yield done.tag, done.out

    def close(self) -> None:
        """Wait for what is in flight."""
        self._queue.wait_all()


def _collect(request: Any, slot: tuple[_Image[Any], int]) -> None:
    image, index = slot
    image.out[index] = request.get_output_tensor(0).data[0]
    image.missing -= 1  # the queue runs callbacks one at a time, holding the interpreter's lock


def merged(core: Any, bundle: Bundle, int8: bool = False) -> Any:
    """One `ov.Model`: [1, S, S, 3] uint8 -> [1, M] float32, members in the bundle's order.

    Raises:
        UsageError: int8 is asked for, and a member has no activation ranges.
    """
    import openvino as ov
    from openvino import opset13 as op

    size = bundle.view_size
    image = op.parameter([1, size, size, 3], ov.Type.u8, "image")
    outputs = []
    for member in bundle.members:
        model = core.read_model(member.file)
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            raise MetaqapError(f"{member.file}: a member has one input and one output")
        model.reshape([1, size, size, 3])
        if int8:
            if not member.ranges:
                raise UsageError(f"the model {bundle.name} has no int8 ranges: use --precision fp32 or bf16")
            quantize(model, member.ranges)
        (parameter,) = model.get_parameters()
        for node in model.get_ordered_ops():
            node.set_friendly_name(f"{member.name}/{node.get_friendly_name()}")
        parameter.output(0).replace(image.output(0))
        outputs.append(op.convert(model.get_results()[0].input_value(0), "f32"))
    return ov.Model([op.concat(outputs, 1)], [image], bundle.name)


def default_precision(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """bf16 where the CPU multiplies in bf16 (AMX, AVX512-BF16), fp32 elsewhere: there bf16 is slower than fp32."""
    try:
        flags = set(cpuinfo.read_text().split())
    except OSError:
        return "fp32"
    return "bf16" if flags & {"amx_bf16", "avx512_bf16"} else "fp32"


def cache_dir() -> Path:
    """Where compiled models are kept: $METAQAP_FAST_CACHE, or metaqap-fast under the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metaqap-fast"
    return Path(os.environ.get("METAQAP_FAST_CACHE") or default)
