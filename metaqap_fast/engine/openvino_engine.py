"""OpenVINO on a CPU: all members as one network, one view per request, as many requests as streams.

A request holds exactly one view, so an image's score cannot depend on what it was batched with.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.engine import cache, cpu
from metaqap_fast.engine.cuda import Gpu
from metaqap_fast.engine.openvino_core import library, shared_core
from metaqap_fast.engine.openvino_int8 import quantize
from metaqap_fast.engine.protocol import Engine, T
from metaqap_fast.engine.table import either
from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.model.bundle import Bundle
from metaqap_fast.streams import counted

log = logging.getLogger(__name__)
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
_NAMES = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "u8": "int8", "i8": "int8"}  # of OpenVINO's types
_CACHED = 1  # another number makes what is in the cache useless


class OpenVINOEngine(Engine):
    """See `metaqap_fast.engine.protocol.Engine`.

    Args:
        bundle: the model.
        precision: `auto` is bf16 on a CPU that multiplies in it and fp32 elsewhere. OpenVINO's own default depends on
            the CPU without saying so; here it is always pinned, and read back from what was compiled.
        threads: CPU threads to use; None for all that the process may run on.

    Raises:
        UsageError: a precision that OpenVINO, this CPU or the model does not have.
        MetaqapError: OpenVINO cannot compile the model, or compiled it in another precision.
    """

    name = "openvino"

    def __init__(self, bundle: Bundle, precision: str = "auto", threads: int | None = None) -> None:
        wanted = cpu.default_precision() if precision == "auto" else precision
        here = [name for name in HINTS if cpu.multiplies_in(name)]
        if wanted not in here:
            why = "on a CPU" if wanted not in HINTS else f"on this CPU ({cpu.level()})"
            raise UsageError(f"OpenVINO has no {wanted} {why}: use --precision {either(here)}")
        threads = threads or len(os.sched_getaffinity(0))
        compiled = compile_members(bundle, wanted, threads)
        self.precision = executed(compiled)
        if self.precision != wanted:
            raise MetaqapError(f"OpenVINO compiled {bundle.name} in {self.precision}, where {wanted} was asked for")
        self.device = f"cpu: {shared_core().get_property('CPU', 'FULL_DEVICE_NAME')}, {counted(threads, 'thread')}"
        self._columns = bundle.readout.columns
        # Twice as many as run at once: while one is read and filled again, the next is there already.
        count = 2 * int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._requests = [compiled.create_infer_request() for _ in range(count)]

    def predict(self, items: Iterable[tuple[T, NDArray[np.uint8]]]) -> Iterator[tuple[T, NDArray[np.float32]]]:
        """See `metaqap_fast.engine.protocol.Engine.predict`.

        Requests are waited for in their order, and not by `AsyncInferQueue`: its threads take Python's lock, in a
        callback and after it, and one that does so when the interpreter ends aborts the process.
        """
        free = list(self._requests)
        flying: deque[_Flight[T]] = deque()

        def land() -> Iterator[tuple[T, NDArray[np.float32]]]:
            first = flying.popleft()
            if first.request is not None:
                first.request.wait()
                first.row[:] = first.request.get_output_tensor(0).data[0]
                free.append(first.request)
            if first.image is not None:
                yield first.image

        try:
            for tag, views in items:
                image = tag, np.empty((len(views), self._columns), np.float32)
                for index, view in enumerate(views):
                    while not free:
                        yield from land()
                    request = free.pop()
                    request.start_async({0: view[None]})
                    flying.append(_Flight(request, image[1][index], image if index == len(views) - 1 else None))
                if not len(views):
                    flying.append(_Flight(None, image[1], image))
                while flying and flying[0].landed():
                    yield from land()
            while flying:
                yield from land()
        finally:
            for each in flying:
                if each.request is not None:
                    each.request.wait()


@dataclass(frozen=True, slots=True)
class _Flight(Generic[T]):
    """A view under way: its request (None where an image has no views), the row that it fills, and the image if this
    is its last view."""

    request: Any
    row: NDArray[np.float32]
    image: tuple[T, NDArray[np.float32]] | None

    def landed(self) -> bool:
        return self.request is None or bool(self.request.wait_for(0))


def create(bundle: Bundle, precision: str, gpu: Gpu | None) -> OpenVINOEngine:
    """See `metaqap_fast.engine.table.Spec`."""
    return OpenVINOEngine(bundle, precision)


def compile_members(bundle: Bundle, precision: str, threads: int) -> Any:
    """One `ov.CompiledModel` of all members, [1, S, S, 3] uint8 -> [1, columns] float32, from the cache if it is there.

    Raises:
        UsageError: int8 is asked for, and a member has no activation ranges.
        MetaqapError: a library's error.
    """
    core = shared_core()
    config = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # decoding threads share these cores
    }
    names = [member.name for member in bundle.members]
    key = json.dumps([_CACHED, bundle.digest, names, precision, library().__version__, cpu.level(), cpu.has_vnni()])
    kept = f"openvino/{hashlib.sha256(key.encode()).hexdigest()[:32]}.blob"
    if bundle.digest and (blob := cache.load(kept)) is not None:
        try:
            return core.import_model(io.BytesIO(blob), "CPU", config)
        except RuntimeError as error:
            log.warning("a compiled model cannot be used: %s. Compiling it again", _reason(error))
    model = merged(bundle, int8=precision == "int8")
    try:
        compiled = core.compile_model(model, "CPU", config)
    except RuntimeError as error:
        raise MetaqapError(f"OpenVINO cannot compile {bundle.name} in {precision}: {_reason(error)}") from None
    if bundle.digest:
        cache.save(kept, compiled.export_model().getvalue())
    return compiled


def executed(compiled: Any) -> str:
    """The precision that an `ov.CompiledModel` really runs in: of its convolutions, or of all where it has none.

    In int8 convolutions without a range stay in floating point, so that one in 8 bits makes it int8.
    """
    info = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    kinds = {_NAMES.get(str(each["runtimePrecision"].astype(str)), "") for each in info if _is_convolution(each)}
    for name in ("int8", "bf16", "fp16", "fp32"):
        if name in kinds:
            return name
    return _NAMES[compiled.get_property("INFERENCE_PRECISION_HINT").to_string()]


def _is_convolution(info: Any) -> bool:
    return str(info["layerType"].astype(str)) == "Convolution"


def _reason(error: RuntimeError) -> str:
    """Of OpenVINO's errors the last line says what happened; the others, where."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def merged(bundle: Bundle, int8: bool = False) -> Any:
    """One `ov.Model`: [1, S, S, 3] uint8 -> [1, columns] float32, members in the bundle's order.

    Raises:
        UsageError: int8 is asked for, and a member has no activation ranges.
    """
    ov = library()
    op, size = ov.opset13, bundle.view_size
    image = op.parameter([1, size, size, 3], ov.Type.u8, "image")
    outputs = []
    for member in bundle.members:
        model = shared_core().read_model(member.file)
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            raise MetaqapError(f"{member.file}: a member has one input and one output")
        model.reshape([1, size, size, 3])
        if int8:
            if not member.ranges:
                raise UsageError(f"the model {bundle.name} has no int8 ranges: use --precision fp32 or bf16")
            quantize(model, member.ranges, narrow=not cpu.has_vnni())
        (parameter,) = model.get_parameters()
        for node in model.get_ordered_ops():
            node.set_friendly_name(f"{member.name}/{node.get_friendly_name()}")
        parameter.output(0).replace(image.output(0))
        outputs.append(op.convert(model.get_results()[0].input_value(0), "f32"))
    return ov.Model([op.concat(outputs, 1)], [image], bundle.name)
