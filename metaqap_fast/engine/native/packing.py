"""A member's weights as numbers of a few bits, in the order in which the compiled kernel reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.engine.native.reader import Floats

PIXEL = np.float32(2**-16)  # what the stem's pixels are multiplied by
TO_FP16 = np.float32(2**-112)  # what makes fp32's exponents those of fp16
CUT = np.float32(1 + 0.7 * 2**-11)  # what cutting fp32 off to fp16 costs on average
SMALLEST, LARGEST = np.float32(2**-24), 65504  # of fp16
CAP = np.float32(6)  # of ReLU6
ZERO = 128  # what stands for 0 between blocks in int8


@dataclass(frozen=True, slots=True)
class Levels:
    """What int8 counts: `weights` up to this magnitude; `inputs` from 0 to this, for those of an expansion half of them
    negative; `bits` of an expansion's sum that stands for 6."""

    weights: int = 127
    inputs: int = 255
    bits: int = 15

    @property
    def half(self) -> int:
        """What stands for 0 in an expansion's inputs."""
        return (self.inputs + 1) // 2

    def step(self, largest: float) -> float:
        """That an expansion's inputs count."""
        return largest / (self.half - 1)


Shorts = NDArray[np.uint16]
Order = tuple[int, ...]  # which channel stands where
# What becomes of two vectors that are packed into one (fp16.h, amx.c): of 32-bit numbers, and of 16-bit ones.
WIDENED: Order = tuple(8 * (i % 16 // 4) + 4 * (i // 16) + i % 4 for i in range(32))
NARROWED: Order = tuple(32 * (i % 2) + i // 2 for i in range(64))


def rounded(weights: Floats, least: float = 0.0, most: int = 127) -> tuple[NDArray[np.int8], Floats]:
    """Weights [N, K] as int8, up to `most`, and the steps [N] that they count: each output has its own, no smaller than
    `least`."""
    steps = np.maximum(np.abs(weights).max(1) / most, np.float32(max(least, 1e-10)))
    return np.rint(weights / steps[:, None]).astype(np.int8), steps


def finest(step: float, bits: int = 16) -> float:
    """The smallest step of weights, for inputs that count `step`: 6 is an unsigned number of so many bits."""
    return float(CAP / (2**bits - 1)) / step


def whole_numbers(scale: Floats, bias: Floats, bits: int) -> tuple[NDArray[np.int32], Shorts, Shorts, Floats]:
    """`Steps` in mobilenet.h, for products that `scale` and `bias` [N] make values, and numbers of so many bits up to
    CAP: bias, shift, cap; and the step that a number counts. What a shift cuts off on average, the bias gives
    back."""
    shift = np.maximum(np.floor(np.log2(CAP / scale)) + 1 - bits, 0)
    step = (scale * np.exp2(shift)).astype(np.float32)
    lost = (np.exp2(shift) - 1) / 2
    whole = np.clip(np.rint(bias.astype(np.float64) / scale + lost), -(2**30), 2**30).astype(np.int32)
    cap = np.rint(CAP / step).astype(np.uint16)
    return whole, shift.astype(np.uint16), cap, step


def units(largest: Floats) -> Floats:
    """Powers of two that make each of `largest` no more than half of what fp16 can hold, 1 where it is."""
    found: Floats = np.exp2(np.minimum(15 - np.ceil(np.log2(np.maximum(largest, 1))), 0)).astype(np.float32)
    return found


def arranged(values: NDArray[Any], order: Order | None) -> NDArray[Any]:
    """The first axis, padded with zeros to a multiple of what `order` counts, in that order."""
    if order is None:
        return values
    whole = padded(values, len(order))
    parts = whole.reshape(-1, len(order), *values.shape[1:])
    return parts[:, list(order)].reshape(whole.shape)


def packed(weights: NDArray[Any], group: int, depth: int) -> NDArray[Any]:
    """Weights of a product [N, K] as the kernel reads them, `Product` in mobilenet.h: [N/16, K/depth, depth/group, 16,
    group], zero where padded. `group` inputs stand together, as many as are 4 bytes; `depth` are what a plane has."""
    filled = padded(weights.T, depth).T
    return grouped(filled.reshape(len(weights), -1, depth), group)


def grouped(weights: NDArray[Any], group: int) -> NDArray[Any]:
    """[N, planes, depth] -> [N/16, planes, depth/group, 16, group], zero where padded."""
    filled = padded(weights, 32)
    shape = len(filled) // 16, 16, filled.shape[1], filled.shape[2] // group, group
    return filled.reshape(shape).transpose(0, 2, 3, 1, 4)


def in_lanes(values: NDArray[Any], lanes: int) -> NDArray[Any]:
    """[C, N] -> [C / lanes, N, lanes], zero where padded."""
    whole = padded(values, lanes)
    return whole.reshape(len(whole) // lanes, lanes, -1).transpose(0, 2, 1)


def padded(values: NDArray[Any], step: int) -> NDArray[Any]:
    """Zeros added at the end of the first axis, to a multiple of `step`."""
    return np.pad(values, [(0, -len(values) % step), *[(0, 0)] * (values.ndim - 1)])


def bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of the nearest bf16 numbers, ties to even; for finite numbers."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded: NDArray[np.uint16] = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return rounded


def unpacked(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The numbers of bf16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
