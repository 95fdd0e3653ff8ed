"""The compiled kernel for MobileNet-type networks (kernels/cpu), and a member's weights as it reads them."""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.engine.mobilenet import Block, Convolution, Network, Unsuited

AVX, AMX = 1, 2  # mobilenet.h
ARITHMETIC = {AVX: "AVX512-BF16", AMX: "AMX"}
LINE = 64  # bytes that buffers are aligned to

_Pointer = ctypes.c_void_p


class _Product(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("inputs", "outputs")),
        *((name, _Pointer) for name in ("weights", "bias", "scale")),
    )


class _Block(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("height", "width", "kernel", "stride", "top", "left")),
        *((name, ctypes.c_int32) for name in ("residual", "wide")),
        ("expand", _Product),
        ("depthwise", _Pointer),
        ("depthwise_bias", _Pointer),
        ("project", _Product),
        ("wide_scale", ctypes.c_float),
        ("narrow_scale", ctypes.c_float),
    )


class _Network(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("size", "eight", "top", "left")),
        ("outside", ctypes.c_uint16 * 4),
        ("stem", _Product),
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
    folder = Path(__file__).parent.parent
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
    return int(library().mobilenet_arithmetic())


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
        blocks = (_Block * len(network.blocks))(
            *(self._block(block, inputs, narrow) for block, narrow in zip(network.blocks, [*after, 0.0], strict=True))
        )
        self._blocks = blocks
        self._network = _Network(
            network.size, bool(ranges), *network.stem.pads, (ctypes.c_uint16 * 4)(*bf16(network.mean)),
            self._stem(network), len(blocks), ctypes.addressof(blocks), network.epsilon, network.bias,
            self._floats(network.weights),
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

    def _product(self, each: Convolution | None, largest: float = 0.0) -> _Product:
        """`largest` magnitude of the inputs: products in int8; 0: in bf16."""
        if each is None:
            return _Product(0, 0, None, None, None)
        weights, scale = each.weights[:, :, 0, 0], np.ones(len(each.bias), np.float32)
        if largest:
            steps = np.maximum(np.abs(weights).max(1), 1e-8) / 127
            stored = self._array(packed(np.rint(weights / steps[:, None]).astype(np.int8), 4))
            scale = steps * largest
        else:
            stored = self._array(packed(bf16(weights), 2))
        return _Product(
            weights.shape[1], weights.shape[0], stored, self._floats(_padded(each.bias, 32)),
            self._floats(_padded(scale, 32)),
        )  # fmt: skip

    def _stem(self, network: Network) -> _Product:
        """The stem with the normalisation in it, for pixels from 0 to 255."""
        stem = network.stem
        weights = stem.weights.transpose(0, 2, 3, 1) * network.scale  # outputs, rows, columns, colours
        weights = unpacked(bf16(weights))  # what the kernel will multiply by: the bias must go with it
        bias = stem.bias - (weights * network.mean).sum((1, 2, 3))
        return self._product(Convolution(weights.reshape(len(bias), 27, 1, 1), bias, 1, (0, 0), stem.size))

    def _depthwise(self, each: Convolution) -> tuple[int, int]:
        """Weights [C/16, k k, 16] float32, or [C/32, k k, 32] float16 for AMX, and bias."""
        lanes, dtype = (32, np.float16) if self._how == AMX else (16, np.float32)
        weights, bias = (_padded(values, lanes).astype(dtype) for values in (each.weights[:, 0], each.bias))
        blocks = weights.reshape(len(weights) // lanes, lanes, -1).transpose(0, 2, 1)
        return self._array(blocks), self._array(bias)

    def _block(self, block: Block, inputs: Mapping[int, float], narrow: float) -> _Block:
        """`inputs`: largest magnitude of what a product reads, by its id; `narrow`: of what the next block reads."""
        expand, depthwise, project = block.expand, block.depthwise, block.project
        first = expand or depthwise
        assert first is not None
        where = (*first.size, 1, 1, 0, 0)
        weights: tuple[int, int] | tuple[None, None] = (None, None)
        if depthwise is not None:
            where = (*depthwise.size, depthwise.weights.shape[-1], depthwise.stride, *depthwise.pads)
            weights = self._depthwise(depthwise)
        read, wide = inputs.get(id(expand), 0.0), inputs.get(id(project), 0.0)
        return _Block(
            *where, block.residual, len(first.bias), self._product(expand, read / 127), *weights,
            self._product(project, wide / 255), 255 / wide if wide else 0.0, 127 / narrow if narrow else 0.0,
        )  # fmt: skip


def packed(weights: NDArray[Any], group: int) -> NDArray[Any]:
    """Weights of a product [N, K] as the kernel reads them, `Product` in mobilenet.h: [N/16, K/depth, depth/group, 16,
    group], zero where padded. `group` inputs that stand together: 2 in bf16, 4 in int8; as many as are 4 bytes."""
    inputs, deepest = weights.shape[1], 16 * group
    depth = next(depth for depth in (16, 32, 64) if inputs <= depth or depth == deepest)
    whole = _padded(_padded(weights, 32).T, depth).T
    shape = len(whole) // 16, 16, whole.shape[1] // depth, depth // group, group
    return whole.reshape(shape).transpose(0, 2, 3, 1, 4)


def _padded(values: NDArray[Any], step: int) -> NDArray[Any]:
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


def aligned_bytes(count: int) -> NDArray[np.uint8]:
    """Zeroed memory that starts at a multiple of LINE."""
    memory = np.zeros(count + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    return memory[start : start + count]
