"""The compiled kernel for MobileNet-type networks (kernels/cpu): what it reads of a member, and how it is called."""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.engine import cpu
from metaqap_fast.engine.native.packing import (
    CAP,
    CUT,
    LARGEST,
    NARROWED,
    PIXEL,
    SMALLEST,
    TO_FP16,
    WIDENED,
    arranged,
    bf16,
    finest,
    in_lanes,
    packed,
    padded,
    rounded,
    units,
    unpacked,
    whole_numbers,
)
from metaqap_fast.engine.native.reader import Block, Convolution, Floats, Network, Unsuited

AVX, AMX = 1, 2  # mobilenet.h
ARITHMETIC = {AVX: "AVX512-BF16", AMX: "AMX"}
LINE = 64  # bytes that buffers are aligned to
ZERO = 128  # what stands for 0 between blocks in int8
WIDE_BITS = 24  # of the stem's sums up to 6 in int8: weights are small, and pixels large
FRACTION = np.float32(2**-13)  # that a whole number stands for in the stem's outputs, see `scaled` in vectors.h
LEAST = 0.1  # the smallest range of a wide activation: fp16 holds a 255th of it in full

_Pointer = ctypes.c_void_p


class _Product(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("inputs", "outputs")),
        *((name, _Pointer) for name in ("weights", "bias", "scale")),
    )


class _Steps(ctypes.Structure):
    _fields_ = tuple((name, _Pointer) for name in ("bias", "wide_shift", "shift", "cap", "step", "times"))


class _Block(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("height", "width", "kernel", "stride", "top", "left")),
        *((name, ctypes.c_int32) for name in ("residual", "wide")),
        ("expand", _Product),
        ("steps", _Steps),
        ("depthwise", _Pointer),
        ("depthwise_bias", _Pointer),
        ("project", _Product),
        ("residual_scale", ctypes.c_float),
    )


class _Network(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("size", "eight", "top", "left")),
        ("outside", ctypes.c_uint16 * 4),
        ("stem", _Product),
        ("steps", _Steps),
        ("blocks", ctypes.c_int32),
        ("block", _Pointer),
        ("epsilon", ctypes.c_float),
        ("bias", ctypes.c_float),
        ("head", _Pointer),
    )


@functools.cache
def library() -> Any:
    """The compiled kernel.

    Raises:
        Unsuited: it was not compiled when the package was installed, or cannot be loaded.
    """
    folder = Path(__file__).parent
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = folder / f"_mobilenet{suffix}"
        if path.exists():
            break
    else:
        raise Unsuited("the package was installed without a C compiler")
    try:
        found = ctypes.CDLL(str(path))
    except OSError as error:
        raise Unsuited(f"{path.name} cannot be loaded: {error}") from None
    found.mobilenet_workspace.argtypes = [_Pointer, ctypes.c_int32]
    found.mobilenet_workspace.restype = ctypes.c_int64
    found.mobilenet_run.argtypes = [_Pointer, ctypes.c_int32, _Pointer, _Pointer, _Pointer]
    found.mobilenet_run.restype = ctypes.c_double
    return found


@functools.cache
def arithmetic() -> int:
    """The best arithmetic of this CPU, see ARITHMETIC; 0 if the kernel cannot run here.

    Raises:
        Unsuited: as `library`.
    """
    best = int(library().mobilenet_arithmetic())  # of the machine; the CPU that is played may have less
    return best if cpu.has("amx") else min(best, AVX) if cpu.has("avx512_bf16") else 0


class Kernel:
    """One member, ready to run.

    Args:
        network: the member.
        how: AVX or AMX.
        ranges: for products in int8, which AMX has: largest magnitude of what each expansion and projection reads, in
            the order of execution.
    """

    def __init__(self, network: Network, how: int, ranges: Sequence[float] | None = None) -> None:
        self._keep: list[NDArray[Any]] = []  # what the structures point to
        self._how, self._taps = how, len(network.weights)
        steps = [step for block in network.blocks for step in (block.expand, block.project) if step is not None]
        inputs = {id(step): largest for step, largest in zip(steps, ranges or [0.0] * len(steps), strict=True)}
        after = [inputs[id(block.expand)] for block in network.blocks[1:]]  # what reads the output of each block
        *stem, times = self._stem(network, bool(ranges))
        blocks = (_Block * len(network.blocks))(*(
            self._block(block, times, inputs, narrow)
            for block, narrow in zip(network.blocks, [*after, 0.0], strict=True)
        ))  # fmt: skip
        self._blocks = blocks
        outside = np.rint(network.mean).astype(np.uint16) if ranges else bf16(network.mean * PIXEL)
        self._network = _Network(
            network.size, bool(ranges), *network.stem.pads, (ctypes.c_uint16 * 4)(*outside), *stem,
            len(blocks), ctypes.addressof(blocks), network.epsilon, network.bias, self._floats(network.weights),
        )  # fmt: skip
        self.workspace = int(library().mobilenet_workspace(ctypes.byref(self._network), how))

    def run(self, view: NDArray[np.uint8], workspace: NDArray[np.uint8]) -> tuple[float, NDArray[np.float32]]:
        """One view's prediction, and the taps that the head reads.

        Args:
            view: [S, S, 3] uint8.
            workspace: `self.workspace` bytes, aligned to LINE; not shared with a call at the same time.

        Returns:
            The prediction; mean, deviation and maximum of every tap, [D] float32.

        Raises:
            ValueError: a view of another shape or type, or too small a workspace: the kernel would read beyond them.
        """
        side = self._network.size
        if view.shape != (side, side, 3) or view.dtype != np.uint8:
            raise ValueError(f"a view is uint8 [{side}, {side}, 3], not {view.dtype} {list(view.shape)}")
        if workspace.nbytes < self.workspace or workspace.ctypes.data % LINE:
            raise ValueError(f"a workspace has {self.workspace} bytes, aligned to {LINE}")
        view = np.ascontiguousarray(view)
        taps = np.empty(self._taps, np.float32)
        address = ctypes.byref(self._network)
        prediction = library().mobilenet_run(
            address, self._how, view.ctypes.data, workspace.ctypes.data, taps.ctypes.data
        )
        return float(prediction), taps

    def _array(self, values: NDArray[Any]) -> int:
        aligned = aligned_bytes(values.nbytes + LINE)  # vectors at the end may be read whole
        aligned[: values.nbytes] = np.ascontiguousarray(values).view(np.uint8).ravel()
        self._keep.append(aligned)
        return int(aligned.ctypes.data)

    def _floats(self, values: NDArray[Any]) -> int:
        return self._array(np.ascontiguousarray(values, np.float32))

    def _product(self, each: Convolution | None, largest: float = 0.0, narrow: float = 0.0) -> _Product:
        """What goes to the narrow activations, or nowhere. For products in int8, the `largest` magnitude of the inputs,
        which a strip holds, and of the outputs as the next block reads them, `narrow`; 0: in bf16."""
        if each is None:
            return _Product()
        weights = each.weights[:, :, 0, 0]
        if not largest:
            return self._packed(len(weights), bf16(weights), each.bias, np.ones_like(each.bias))
        whole, steps = rounded(arranged(weights.T, NARROWED).T)
        order, scale = WIDENED if len(whole) > 16 else None, np.float32(127 / narrow)
        values = (whole, each.bias * scale, steps * np.float32(largest / 255) * scale)
        return self._packed(len(weights), *(arranged(part, order) for part in values))

    def _packed(self, outputs: int, weights: NDArray[Any], *values: Floats) -> _Product:
        """`weights`: [N, K], with more than `outputs` where padded; `values`: bias and scale, where they are read."""
        stored = self._array(packed(weights, 4 if weights.itemsize == 1 else 2, whole=self._how == AMX))
        return _Product(weights.shape[1], outputs, stored, *(self._floats(padded(part, 32)) for part in values))

    def _widening(self, each: Convolution, step: float = 0.0) -> tuple[_Product, _Steps, Floats]:
        """What goes to the ring, and what the ring is to be multiplied by, [N]. `step`: of the inputs, for products in
        int8; 0: in bf16."""
        if self._how != AMX:
            return self._product(each), _Steps(), np.ones_like(each.bias)
        weights = each.weights[:, :, 0, 0]
        if not step:
            stored, bias = (arranged(values * TO_FP16, WIDENED) for values in (weights, each.bias))
            times = np.full_like(each.bias, CUT)
            return self._packed(len(weights), bf16(stored), bias, times), _Steps(), times
        whole, steps = rounded(weights, finest(step))
        product = self._packed(len(whole), arranged(whole, WIDENED))
        bias, shift, cap, counted = whole_numbers(steps * np.float32(step), each.bias, 11)
        bias -= ZERO * whole.sum(1, dtype=np.int32)
        parts = (self._array(each) for each in (padded(shift, 32), padded(cap, 32)))
        return product, _Steps(self._array(arranged(bias, WIDENED)), None, *parts), counted / SMALLEST

    def _stem(self, network: Network, eight: bool) -> tuple[_Product, _Steps, Floats]:
        """As `_widening`, of the stem with the normalisation in it, for pixels from 0 to 255, in bf16 times PIXEL."""
        stem = network.stem
        weights = stem.weights.transpose(0, 2, 3, 1) * network.scale  # outputs, rows, columns, colours
        mean = np.tile(network.mean, 9)
        if not eight:
            weights = unpacked(bf16(weights.transpose(0, 2, 1, 3).reshape(-1, 27)))
            each = Convolution(weights[:, :, None, None] / PIXEL, stem.bias - weights @ mean, 1, (0, 0), stem.size)
            product, parts, times = self._widening(each)
            return product, self._counted(parts, times), times
        whole, steps = rounded(weights.reshape(-1, 27), finest(1, WIDE_BITS))
        bias, shift, cap, counted = whole_numbers(steps, stem.bias - whole @ mean * steps, 16)
        fours = np.pad(whole.reshape(-1, 3, 9), [(0, 0), (0, 0), (0, 3)]).reshape(-1, 36)
        product = self._packed(len(fours), arranged(fours, WIDENED))
        wide = [self._array(arranged(values.astype(np.int32), WIDENED)) for values in (bias, shift)]
        most = self._array(padded((cap * FRACTION).astype(np.float16), 32))
        times = counted / FRACTION
        return product, self._counted(_Steps(*wide, None, most), times), times

    def _counted(self, steps: _Steps, times: Floats) -> _Steps:
        """With what the ring is multiplied by for its own statistics, `times`, in two parts."""
        step = (times * units(times)).astype(np.float16)
        steps.step, steps.times = self._array(padded(step, 32)), self._floats(padded(times / step, 32))
        return steps

    def _depthwise(self, each: Convolution, times: Floats, wide: float) -> tuple[int, int | None, float]:
        """`depthwise` and `depthwise_bias` in mobilenet.h; and `wide`, the largest magnitude of the outputs where they
        are multiplied in int8 (else 0), or a larger one, for fp16. `times`, [C]: of the inputs."""
        weights = (each.weights[:, 0] * times[:, None, None]).reshape(len(times), -1)
        if self._how != AMX:
            return self._array(in_lanes(weights, 16)), self._floats(each.bias), wide
        unit = units(np.abs(weights).max(1))
        wide = max(wide, LEAST, 255 / LARGEST / float(unit.min())) if wide else 0.0
        scale, most = (255 / wide, min(float(CAP), wide)) if wide else (0.0, float(CAP))
        own = each.bias * unit, most * unit, scale / unit, unit / scale if scale else unit, 1 / unit  # see amx.c
        parts = np.concatenate([weights * unit[:, None], np.stack(own, 1)], 1)
        return self._array(in_lanes(parts, 32).astype(np.float16)), None, wide

    def _block(self, block: Block, stem: Floats, inputs: Mapping[int, float], narrow: float) -> _Block:
        """`stem`: what its outputs in the ring are to be multiplied by; `inputs`: largest magnitude of what a product
        reads, by its id; `narrow`: of what the next block reads."""
        expand, depthwise, project = block.expand, block.depthwise, block.project
        first = expand or depthwise
        assert first is not None
        read, wide = inputs.get(id(expand), 0.0), inputs.get(id(project), 0.0)
        expansion, steps, times = _Product(), _Steps(), stem
        if expand is not None:
            expansion, steps, times = self._widening(expand, read / 127)
        if depthwise is not None:
            where = (*depthwise.size, depthwise.weights.shape[-1], depthwise.stride, *depthwise.pads)
            *weights, wide = self._depthwise(depthwise, times, wide)
        else:
            where = (*first.size, 1, 1, 0, 0)
            steps, weights = self._counted(steps, times), [None, None]
        return _Block(
            *where, block.residual, len(first.bias), expansion, steps, *weights, self._product(project, wide, narrow),
            read / narrow if narrow else 0.0,
        )  # fmt: skip


def aligned_bytes(count: int) -> NDArray[np.uint8]:
    """Zeroed memory that starts at a multiple of LINE."""
    memory = np.zeros(count + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    return memory[start : start + count]
