"""Pixels to member predictions: the engines' protocol and the choice of one."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.model.bundle import Bundle
from metaqap_fast.options import ENGINES, PRECISIONS

if TYPE_CHECKING:
    from metaqap_fast.engine.choice import Choice
    from metaqap_fast.engine.cuda import Gpu

log = logging.getLogger(__name__)
T = TypeVar("T")


class Engine(Protocol):
    """Runs a bundle's members on views.

    `name`, `precision` and `device` say what really runs; they are recorded in every score file. `device_id` is
    the number of the GPU, None on a CPU; `reason` says why this engine, for people.
    """

    name: str
    precision: str
    device: str
    device_id: int | None
    reason: str

    def predict(self, items: Iterable[tuple[T, NDArray[np.uint8]]]) -> Iterator[tuple[T, NDArray[np.float32]]]:
        """Member predictions of a stream of images, in order.

        Args:
            items: (tag, views [N, S, S, 3] uint8); N = 0 is passed through.

        Yields:
            (tag, predictions [N, M] float32 on the MOS scale).
        """
        ...

    def close(self) -> None:
        """Release threads and device memory."""
        ...


def create(bundle: Bundle, engine: str = "auto", device: str = "auto", precision: str = "auto") -> Engine:
    """The engine for a bundle on this machine; `auto` is explained in `choice.choose`.

    Raises:
        UsageError: an engine, device or precision that does not exist or cannot run here.
        MetaqapError: packages or a GPU are missing; the native engine, asked for, cannot run the bundle here.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}: one of {', '.join(PRECISIONS)}")
    choice = _choose(engine, device)
    if choice.warning:
        log.warning(choice.warning)
    if engine == "auto" and choice.engine == "openvino":
        made = _on_cpu(bundle, precision)
    else:
        made = _make(bundle, choice.engine, choice.gpu, precision)
    made.reason = f"{choice.reason}; {made.reason}" if made.reason else choice.reason
    return made


def gpu_for(engine: str, device: str) -> int | None:
    """The number of the GPU that `create` would use; None for the CPU.

    Raises:
        UsageError, MetaqapError: as `create`.
    """
    gpu = _choose(engine, device).gpu
    return gpu.index if gpu else None


def _choose(engine: str, device: str) -> Choice:
    if engine not in ENGINES:
        raise UsageError(f"unknown engine {engine!r}: one of {', '.join(ENGINES)}")
    from metaqap_fast.engine.choice import choose

    return choose(engine, device)


def _on_cpu(bundle: Bundle, precision: str) -> Engine:
    """The native engine where it has the precision and runs the bundle, or else OpenVINO."""
    from metaqap_fast.engine.native import engine as native
    from metaqap_fast.engine.native.reader import Unsuited
    from metaqap_fast.engine.openvino import OpenVINOEngine, default_precision

    precision = default_precision() if precision == "auto" else precision
    reason = ""
    if precision in native.PRECISIONS:
        try:
            return native.NativeEngine(bundle, precision)
        except Unsuited as unsuited:
            reason = f"the native engine does not run: {unsuited}"
    made = OpenVINOEngine(bundle, precision)
    made.reason = reason
    return made


def _make(bundle: Bundle, name: str, gpu: Gpu | None, precision: str) -> Engine:
    if name == "native":
        from metaqap_fast.engine.native.engine import NativeEngine
        from metaqap_fast.engine.native.reader import Unsuited

        try:
            return NativeEngine(bundle, precision)
        except Unsuited as unsuited:
            raise MetaqapError(f"the native engine cannot run: {unsuited}") from None
    if name == "openvino":
        from metaqap_fast.engine.openvino import OpenVINOEngine

        return OpenVINOEngine(bundle, precision)
    if name == "torch":
        from metaqap_fast.engine.gpu import torch_engine

        return torch_engine.create(bundle, precision, gpu)
    from metaqap_fast.engine.gpu import tensorrt_engine as tensorrt

    assert gpu is not None
    return tensorrt.create(bundle, precision, gpu)
