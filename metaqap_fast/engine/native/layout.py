"""What the layouts of a member's weights have in common: memory that the structures point to."""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.engine.native.library import BlockC, NetworkC, ProductC, StepsC
from metaqap_fast.engine.native.packing import padded
from metaqap_fast.engine.native.reader import Floats, Network

LINE = 64  # bytes that buffers are aligned to


class Layout(ABC):
    """A member as the paths of one kind read it. The arrays live as long as this does."""

    def __init__(self) -> None:
        self._keep: list[Any] = []

    @abstractmethod
    def network(self, network: Network, inputs: dict[int, float], after: Sequence[float]) -> NetworkC:
        """The structure that the kernel is called with.

        Args:
            network: the member.
            inputs: for int8, largest magnitude of what an expansion or projection reads, by its id; 0 otherwise.
            after: of what reads the output of each block; 0 for the last.
        """

    def joined(
        self, network: Network, eight: bool, outside: Sequence[int], stem: ProductC, steps: StepsC, blocks: list[BlockC]
    ) -> NetworkC:
        """The whole of its parts."""
        stored = (BlockC * len(blocks))(*blocks)
        self._keep.append(stored)
        return NetworkC(
            network.size, eight, *network.stem.pads, (ctypes.c_uint16 * 4)(*outside), stem, steps,
            len(blocks), ctypes.addressof(stored), network.epsilon, network.bias, self.floats(network.weights),
            (ctypes.c_float * 4)(*network.mean),
        )  # fmt: skip

    def array(self, values: NDArray[Any]) -> int:
        """The address of a copy, of which vectors at the end may be read whole."""
        aligned = aligned_bytes(values.nbytes + LINE)
        aligned[: values.nbytes] = np.ascontiguousarray(values).view(np.uint8).ravel()
        self._keep.append(aligned)
        return int(aligned.ctypes.data)

    def floats(self, values: NDArray[Any]) -> int:
        """The same in fp32."""
        return self.array(np.ascontiguousarray(values, np.float32))

    def product(self, inputs: int, outputs: int, weights: NDArray[Any], *values: Floats) -> ProductC:
        """`weights` as they are stored; `values`, where they are read: bias and scale."""
        stored = self.array(weights)
        return ProductC(inputs, outputs, stored, *(self.floats(padded(part, 32)) for part in values))


def aligned_bytes(count: int) -> NDArray[np.uint8]:
    """Zeroed memory that starts at a multiple of LINE."""
    memory = np.zeros(count + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    return memory[start : start + count]
