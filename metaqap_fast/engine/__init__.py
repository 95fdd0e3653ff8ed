"""Pixels to member predictions: the engines' protocol and the choice of one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.bundle import Bundle
from metaqap_fast.errors import UsageError

T = TypeVar("T")
ENGINES = ("auto", "tensorrt", "openvino", "torch")
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")


class Engine(Protocol):
    """Runs a bundle's members on views.

    `name`, `precision` and `device` say what really runs; they are recorded in every score file.
    """

    name: str
    precision: str
    device: str

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
    """The engine for a bundle on this machine.

    Raises:
        UsageError: an engine, device or precision that does not exist or cannot run here.
    """
    if engine not in ENGINES:
        raise UsageError(f"unknown engine {engine!r}: one of {', '.join(ENGINES)}")
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}: one of {', '.join(PRECISIONS)}")
    if engine in ("auto", "openvino"):
        if device not in ("auto", "cpu"):
            raise UsageError(f"the openvino engine runs on the cpu, not on {device!r}")
        from metaqap_fast.engine.openvino import OpenVINOEngine

        return OpenVINOEngine(bundle, precision)
    raise UsageError(f"this version has no {engine} engine yet: use --engine openvino")
