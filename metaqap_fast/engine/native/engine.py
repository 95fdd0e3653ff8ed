"""The compiled kernel for MobileNet-type members as an engine: one view on one thread, all members.

A view's result depends on that view alone: no batch, no order, no number of threads changes it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.engine import cpu
from metaqap_fast.engine.cuda import Gpu
from metaqap_fast.engine.native.correction import corrected, equalised, typical
from metaqap_fast.engine.native.isa import Isa, path, paths
from metaqap_fast.engine.native.kernel import Kernel, levels
from metaqap_fast.engine.native.layout import aligned_bytes
from metaqap_fast.engine.native.reader import Network, Unsuited, read
from metaqap_fast.engine.openvino_core import shared_core
from metaqap_fast.engine.protocol import Engine, T
from metaqap_fast.engine.samples import generated
from metaqap_fast.engine.table import ENGINES, either
from metaqap_fast.errors import UsageError
from metaqap_fast.model.bundle import Bundle
from metaqap_fast.streams import counted

PRECISIONS = ENGINES["native"].precisions
AHEAD = 8  # views in flight for each thread
TYPICAL = 4  # views that int8's biases are corrected on


def kernels(bundle: Bundle, isa: Isa, precision: str) -> list[Kernel]:
    """The members, ready to run by a path that computes in this precision here.

    Raises:
        UsageError: int8 is asked for, and a member has no activation ranges.
        Unsuited: a member is of another type; the reason names it.
    """
    core, size = shared_core(), bundle.view_size
    found: list[tuple[Network, list[float]]] = []
    for member in bundle.members:
        model = core.read_model(member.file)
        model.reshape([1, size, size, 3])
        try:
            network = read(model)
        except Unsuited as reason:
            raise Unsuited(f"it does not support {member.name} ({reason})") from None
        if precision == "int8" and not member.ranges:
            raise UsageError(f"the model {bundle.name} has no int8 ranges: use --precision bf16 or fp32")
        found.append((network, largest(model, member.ranges) if precision == "int8" else []))
    if precision == "int8":  # all members can: now it is worth the time
        views, exact = generated(size, TYPICAL), isa if isa == Isa.AMX else path("fp32")
        for i, (network, ranges) in enumerate(found):
            taps = typical(network, exact, views)
            network = network if isa == Isa.AMX else equalised(network, taps)
            found[i] = corrected(network, taps, ranges, levels(isa)), ranges
    kernels = []
    for member, (network, ranges) in zip(bundle.members, found, strict=True):
        try:
            kernels.append(Kernel(network, isa, ranges))
        except Unsuited as reason:
            raise Unsuited(f"it does not support {member.name} ({reason})") from None
    return kernels


def fastest(bundle: Bundle, precision: str) -> tuple[list[Kernel], Isa]:
    """The members, ready to run by the fastest path that takes views of their size, and that path.

    Raises:
        Unsuited: no path does: why the first does not.
        UsageError: as `kernels`.
    """
    first = path(precision)
    try:
        return kernels(bundle, first, precision), first
    except Unsuited:  # AMX takes whole tiles only
        # Nothing keeps the exception: its traceback would keep what others have made, until it is collected.
        for isa in paths(precision)[1:]:
            with suppress(Unsuited):
                return kernels(bundle, isa, precision), isa
        raise


def largest(model: Any, ranges: Mapping[str, tuple[float, float]]) -> list[float]:
    """Largest magnitude of what each 1x1 convolution reads, in the order of execution.

    Raises:
        Unsuited: one has no range.
    """
    found = []
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Convolution" and tuple(node.get_input_shape(1)[2:]) == (1, 1):
            name = min(node.input_value(0).get_names())
            if name not in ranges:
                raise Unsuited(f"no int8 range of {name}")
            found.append(max(-ranges[name][0], ranges[name][1], 1e-6))
    return found


class NativeEngine(Engine):
    """See `metaqap_fast.engine.protocol.Engine`.

    Args:
        bundle: the model.
        precision: `auto` (bf16 where the CPU multiplies in it, fp32 elsewhere), `fp32`, `bf16` or `int8`; in int8 the
            depthwise convolutions and what blocks add to their input have 16 bits, or stay in floating point (AMX).
        threads: CPU threads to use; None for all that the process may run on.
        isa: the path; None for the fastest that runs here.

    Raises:
        UsageError: another precision, or a model without int8 ranges.
        Unsuited: the kernel is missing, or cannot run here or with this model.
    """

    name = "native"

    def __init__(
        self, bundle: Bundle, precision: str = "auto", threads: int | None = None, isa: Isa | None = None
    ) -> None:
        if precision not in ("auto", *PRECISIONS):
            raise UsageError(f"the native engine has no {precision}: use {either(PRECISIONS)}, or --engine openvino")
        if precision == "auto":
            precision = "bf16" if paths("bf16") else "fp32"
        self.precision = precision
        if isa is None:
            self._kernels, isa = fastest(bundle, precision)
        else:
            self._kernels = kernels(bundle, isa, precision)
        self._columns = bundle.readout.columns
        count = threads or len(os.sched_getaffinity(0))
        core = shared_core()
        self.device = f"cpu: {core.get_property('CPU', 'FULL_DEVICE_NAME')}, {isa.name}, {counted(count, 'thread')}"
        self._ahead = AHEAD * count
        self._pool = ThreadPoolExecutor(count, "native")
        self._free: SimpleQueue[NDArray[np.uint8]] = SimpleQueue()
        for _ in range(count):
            self._free.put(aligned_bytes(max(kernel.workspace for kernel in self._kernels)))

    def predict(self, items: Iterable[tuple[T, NDArray[np.uint8]]]) -> Iterator[tuple[T, NDArray[np.float32]]]:
        """See `metaqap_fast.engine.protocol.Engine.predict`."""
        flying: deque[tuple[T, list[Future[list[float]]]]] = deque()
        views = 0

        def land() -> Iterator[tuple[T, NDArray[np.float32]]]:
            """Wait for half of them: to be woken for each would cost more than what is done with it."""
            nonlocal views
            for _, futures in islice(flying, len(flying) // 2 + 1):
                for future in futures:
                    future.exception()  # waits
            while flying and all(future.done() for future in flying[0][1]):
                tag, futures = flying.popleft()
                views -= len(futures)
                rows = [future.result() for future in futures]
                yield tag, np.array(rows, np.float32).reshape(len(rows), self._columns)

        try:
            for tag, images in items:
                flying.append((tag, [self._pool.submit(self._view, view) for view in images]))
                views += len(images)
                while max(views, len(flying)) > self._ahead:  # failures have no views
                    yield from land()
            while flying:
                yield from land()
        finally:
            for _, futures in flying:
                for future in futures:
                    future.cancel()

    def _view(self, view: NDArray[np.uint8]) -> list[float]:
        workspace = self._free.get()
        try:
            return [column for kernel in self._kernels for column in kernel.columns(view, workspace)]
        finally:
            self._free.put(workspace)

    def close(self) -> None:
        """Wait for what is in flight and end the threads."""
        self._pool.shutdown(cancel_futures=True)


def create(bundle: Bundle, precision: str, gpu: Gpu | None) -> NativeEngine:
    """See `metaqap_fast.engine.table.Spec`.

    The portable path is for tests: it is slower than OpenVINO, and runs only if METAQAP_FAST_ISA asks for it.
    """
    if precision != "bf16" and paths("fp32") == [Isa.PORTABLE] and cpu.played() != "portable":
        raise Unsuited("without AVX2 it would be slower than OpenVINO")
    return NativeEngine(bundle, precision)
