"""What an engine is: pixels to member predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.errors import MetaqapError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


class Unsuited(MetaqapError):
    """Why an engine cannot run a model, or cannot run here, in a few words; `auto` then takes the next engine."""


@dataclass(frozen=True, slots=True)
class Batch(Generic[T]):
    """Images that were run together: a tag and a number of views for each, predictions [sum(counts), columns] float32.

    The predictions are an array or, where they stay on the engine's device, a tensor.
    """

    tags: list[T]
    counts: list[int]
    predictions: NDArray[np.float32] | Tensor


class Engine(Protocol):
    """Runs a bundle's members on views.

    A prediction is a row of all members' columns, side by side: see `model.bundle.Layout`.

    An engine inherits from this class and gives `predict`, and the three methods after it if its predictions stay on a
    device. Its `name`, `precision` and `device` say what really runs; they are recorded in every score file.
    `device_id` is the number of the GPU, None on a CPU; `reason` says why this engine, for people; `version`
    what decides its predictions beside its library's packages, if there is anything: recorded, and compared on resume.
    """

    name: str
    precision: str
    device: str
    device_id: int | None = None
    reason: str = ""
    version: str = ""

    def predict(self, items: Iterable[tuple[T, NDArray[np.uint8]]]) -> Iterator[tuple[T, NDArray[np.float32]]]:
        """Member predictions of a stream of images, in order.

        Args:
            items: (tag, views [N, S, S, 3] uint8); N = 0 is passed through.

        Yields:
            (tag, predictions [N, columns] float32).
        """
        ...

    def batches(self, items: Iterable[tuple[T, Any]]) -> Iterator[Batch[T]]:
        """The same, as the engine groups images; views may lie on its device."""
        for tag, predictions in self.predict(items):
            yield Batch([tag], [len(predictions)], predictions)

    def on_stream(self) -> AbstractContextManager[Any]:
        """Work on the device inside is queued behind the engine's own."""
        return nullcontext()

    def read_back(self, rows: Tensor) -> Callable[[], NDArray[np.float32]]:
        """Start to bring rows to the host, behind the engine's work; call what is returned to wait for them."""
        return rows.cpu().numpy

    def close(self) -> None:
        """Release threads and device memory."""
        return
