"""A member, laid out for a path of the compiled kernel and ready to run."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.engine.native.isa import Isa
from metaqap_fast.engine.native.layout import LINE, Layout
from metaqap_fast.engine.native.layout_bf16 import Bf16Layout
from metaqap_fast.engine.native.layout_vectors import Fp32Layout, Int8Layout
from metaqap_fast.engine.native.library import BlockC, library
from metaqap_fast.engine.native.packing import Levels
from metaqap_fast.engine.native.reader import Network


class Kernel:
    """One member, ready to run.

    Args:
        network: the member.
        isa: the path; it must run here.
        ranges: for int8: largest magnitude of what each expansion and projection reads, in the order of execution.

        made: how weights are laid out, if not as the path's are by `layout`.

    Raises:
        Unsuited: the path does not run networks of this shape.
    """

    def __init__(
        self, network: Network, isa: Isa, ranges: Sequence[float] | None = None, made: Layout | None = None
    ) -> None:
        steps = [step for block in network.blocks for step in (block.expand, block.project) if step is not None]
        inputs = {id(step): largest for step, largest in zip(steps, ranges or [0.0] * len(steps), strict=True)}
        after = [
            *(inputs[id(block.expand)] for block in network.blocks[1:]),
            0.0,
        ]  # what reads the output of each block
        self._layout, self._isa = layout(isa, bool(ranges)) if made is None else made, isa
        self._size, self._taps = network.size, len(network.weights)
        self._units, self._units_bias = smallest(network.units.T, isa), network.units_bias  # [U, D], [U]
        self._network = self._layout.network(network, inputs, after)
        self.workspace = int(library().mobilenet_workspace(ctypes.byref(self._network), isa))

    def run(
        self, view: NDArray[np.uint8], workspace: NDArray[np.uint8], seconds: NDArray[np.float64] | None = None
    ) -> tuple[float, NDArray[np.float32]]:
        """One view's prediction, and the taps that the head reads.

        Args:
            view: [S, S, 3] uint8.
            workspace: `self.workspace` bytes, aligned to LINE; not shared with a call at the same time.
            seconds: [blocks, parts] gets what each part of each block takes, see `measure`; looking at the clock
                costs a few percent.

        Returns:
            The prediction; mean, deviation and maximum of every tap, [D] float32.

        Raises:
            ValueError: a view of another shape or type, or too small a workspace: the kernel would read beyond them.
        """
        side = self._size
        if view.shape != (side, side, 3) or view.dtype != np.uint8:
            raise ValueError(f"a view is uint8 [{side}, {side}, 3], not {view.dtype} {list(view.shape)}")
        if workspace.nbytes < self.workspace or workspace.ctypes.data % LINE:
            raise ValueError(f"a workspace has {self.workspace} bytes, aligned to {LINE}")
        view = np.ascontiguousarray(view)
        taps = np.empty(self._taps, np.float32)
        places = (view.ctypes.data, workspace.ctypes.data, taps.ctypes.data)
        address = ctypes.byref(self._network)
        if seconds is None:
            prediction = library().mobilenet_run(address, self._isa, *places)
        else:
            prediction = library().mobilenet_times(address, self._isa, *places, seconds.ctypes.data)
        return float(prediction), taps

    def blocks(self) -> list[BlockC]:
        """Its blocks as the compiled kernel sees them."""
        count = self._network.blocks
        return list(ctypes.cast(self._network.block, ctypes.POINTER(BlockC * count)).contents)

    def columns(self, view: NDArray[np.uint8], workspace: NDArray[np.uint8]) -> list[float]:
        """One view's prediction, and the member's shares of the hidden units; arguments as of `run`."""
        prediction, taps = self.run(view, workspace)
        units = np.empty(len(self._units), np.float32)
        if len(units):
            places = (self._units.ctypes.data, *self._units.shape, taps.ctypes.data, units.ctypes.data)
            kernel = library()
            (kernel.mobilenet_units_half if self._units.itemsize == 2 else kernel.mobilenet_units)(*places)
        return [prediction, *(units + self._units_bias).tolist()]


def smallest(weights: NDArray[np.float32], isa: Isa) -> NDArray[np.floating[Any]]:
    """In 16 bits where they are the same numbers, and the CPU reads them: half the memory has to be moved."""
    with np.errstate(over="ignore"):
        half = weights.astype(np.float16, order="C")
    reads = isa != Isa.PORTABLE and library().mobilenet_has_halves()
    return half if reads and np.array_equal(half, weights) else np.ascontiguousarray(weights, np.float32)


def layout(isa: Isa, eight: bool) -> Layout:
    """How a path reads weights."""
    if isa in (Isa.AMX, Isa.AVX512_BF16):
        return Bf16Layout(tiles=isa == Isa.AMX)
    if not eight:
        return Fp32Layout()
    return Int8Layout(levels(isa))


def levels(isa: Isa) -> Levels:
    """Of a path in int8; without VNNI, see avx2_int8.c."""
    if isa == Isa.AMX:
        return Levels(bits=16)
    return Levels(64) if isa in (Isa.AVX2, Isa.AVX512) else Levels()
