"""What a path could do at best, and where the time of a member goes: for benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.engine.native.isa import Isa
from metaqap_fast.engine.native.kernel import Kernel
from metaqap_fast.engine.native.library import BlockC, library

STEM, EXPAND, COUNT, DEPTHWISE, PROJECT, PARTS = range(6)  # mobilenet.h
STEM_INPUTS = 27


@dataclass(frozen=True, slots=True)
class Part:
    """Of one block: what it is, as a person would call it; its operations (a product and its sum are two); seconds."""

    kind: str
    operations: float
    seconds: float


def peak(isa: Isa, precision: str, rounds: int) -> float:
    """Do products of registers alone on this thread, by a path's own instructions; the operations, 0 if it has none."""
    return float(library().mobilenet_peak(isa, precision == "int8", rounds))


def parts(kernel: Kernel, view: NDArray[np.uint8], workspace: NDArray[np.uint8]) -> list[Part]:
    """The parts of every block of a member, for one view; arguments as of `Kernel.run`."""
    blocks = kernel.blocks()
    seconds = np.zeros((len(blocks), PARTS))
    kernel.run(view, workspace, seconds)
    return [part for block, row in zip(blocks, seconds, strict=True) for part in _of(block, row)]


def _of(block: BlockC, seconds: NDArray[np.float64]) -> Iterator[Part]:
    pixels = block.height * block.width
    if block.expand.weights:
        yield Part("expansion 1x1", 2.0 * pixels * block.expand.inputs * block.wide, seconds[EXPAND])
    else:
        yield Part("stem 3x3", 2.0 * pixels * STEM_INPUTS * block.wide, seconds[STEM])
    if not block.depthwise:
        yield Part("statistics of the last block", 0.0, seconds[COUNT])
        return
    made = -(-block.height // block.stride) * -(-block.width // block.stride)
    name = f"depthwise {block.kernel}x{block.kernel}" + (", stride 2" if block.stride == 2 else "")
    yield Part(name, 2.0 * made * block.kernel**2 * block.wide, seconds[DEPTHWISE])
    yield Part("projection 1x1", 2.0 * made * block.wide * block.project.outputs, seconds[PROJECT])
