"""How the paths that multiply in bf16, AVX512_BF16 and AMX, read a member; and AMX in int8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.engine.native.layout import Layout
from metaqap_fast.engine.native.library import BlockC, NetworkC, ProductC, StepsC
from metaqap_fast.engine.native.packing import (
    CAP,
    CUT,
    LARGEST,
    NARROWED,
    PIXEL,
    SMALLEST,
    TO_FP16,
    WIDENED,
    ZERO,
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

WIDE_BITS = 24  # of the stem's sums up to 6 in int8: weights are small, and pixels large
FRACTION = np.float32(2**-13)  # that a whole number stands for in the stem's outputs, see `scaled` in vectors.h
LEAST = 0.1  # the smallest range of a wide activation: fp16 holds a 255th of it in full


class Bf16Layout(Layout):
    """Args: tiles: as AMX reads it, otherwise as AVX512_BF16 does."""

    def __init__(self, tiles: bool) -> None:
        super().__init__()
        self._tiles = tiles

    def network(self, network: Network, inputs: dict[int, float], after: Sequence[float]) -> NetworkC:
        """See `Layout.network`.

        Raises:
            Unsuited: sizes that these paths do not take.
        """
        _check(network, 16 if self._tiles else 8)
        eight = any(after)
        stem, steps, times = self._stem(network, eight)
        blocks = [self._block(*each, times, inputs) for each in zip(network.blocks, after, strict=True)]
        outside = np.rint(network.mean).astype(np.uint16) if eight else bf16(network.mean * PIXEL)
        return self.joined(network, eight, list(outside), stem, steps, blocks)

    def _narrowing(self, each: Convolution | None, largest: float = 0.0, narrow: float = 0.0) -> ProductC:
        """What goes to the narrow activations, or nowhere. For products in int8, the `largest` magnitude of the inputs,
        which a strip holds, and of the outputs as the next block reads them, `narrow`; 0: in bf16."""
        if each is None:
            return ProductC()
        weights = each.weights[:, :, 0, 0]
        if not largest:
            return self._packed(len(weights), bf16(weights), each.bias, np.ones_like(each.bias))
        whole, steps = rounded(arranged(weights.T, NARROWED).T)
        order, scale = WIDENED if len(whole) > 16 else None, np.float32(127 / narrow)
        values = (whole, each.bias * scale, steps * np.float32(largest / 255) * scale)
        return self._packed(len(weights), *(arranged(part, order) for part in values))

    def _packed(self, outputs: int, weights: NDArray[Any], *values: Floats) -> ProductC:
        """`weights`: [N, K], with more than `outputs` where padded; `values`: bias and scale, where they are read."""
        group = 4 if weights.itemsize == 1 else 2
        depth = 16 * group if self._tiles or weights.shape[1] > 16 else 16
        return self.product(weights.shape[1], outputs, packed(weights, group, depth), *values)

    def _widening(self, each: Convolution, step: float = 0.0) -> tuple[ProductC, StepsC, Floats]:
        """What goes to the ring, and what the ring is to be multiplied by, [N]. `step`: of the inputs, for products in
        int8; 0: in bf16."""
        if not self._tiles:
            return self._narrowing(each), StepsC(), np.ones_like(each.bias)
        weights = each.weights[:, :, 0, 0]
        if not step:
            stored, bias = (arranged(values * TO_FP16, WIDENED) for values in (weights, each.bias))
            times = np.full_like(each.bias, CUT)
            return self._packed(len(weights), bf16(stored), bias, times), StepsC(), times
        whole, steps = rounded(weights, finest(step))
        product = self._packed(len(whole), arranged(whole, WIDENED))
        bias, shift, cap, counted = whole_numbers(steps * np.float32(step), each.bias, 11)
        bias -= ZERO * whole.sum(1, dtype=np.int32)
        parts = (self.array(each) for each in (padded(shift, 32), padded(cap, 32)))
        return product, StepsC(self.array(arranged(bias, WIDENED)), None, *parts), counted / SMALLEST

    def _stem(self, network: Network, eight: bool) -> tuple[ProductC, StepsC, Floats]:
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
        wide = [self.array(arranged(values.astype(np.int32), WIDENED)) for values in (bias, shift)]
        most = self.array(padded((cap * FRACTION).astype(np.float16), 32))
        times = counted / FRACTION
        return product, self._counted(StepsC(*wide, None, most), times), times

    def _counted(self, steps: StepsC, times: Floats) -> StepsC:
        """With what the ring is multiplied by for its own statistics, `times`, in two parts."""
        step = (times * units(times)).astype(np.float16)
        steps.step, steps.times = self.array(padded(step, 32)), self.floats(padded(times / step, 32))
        return steps

    def _depthwise(self, each: Convolution, times: Floats, wide: float) -> tuple[int, int | None, float]:
        """`depthwise` and `depthwise_bias` in mobilenet.h; and `wide`, the largest magnitude of the outputs where they
        are multiplied in int8 (else 0), or a larger one, for fp16. `times`, [C]: of the inputs."""
        weights = (each.weights[:, 0] * times[:, None, None]).reshape(len(times), -1)
        if not self._tiles:
            return self.array(in_lanes(weights, 16)), self.floats(each.bias), wide
        unit = units(np.abs(weights).max(1))
        wide = max(wide, LEAST, 255 / LARGEST / float(unit.min())) if wide else 0.0
        scale, most = (255 / wide, min(float(CAP), wide)) if wide else (0.0, float(CAP))
        own = each.bias * unit, most * unit, scale / unit, unit / scale if scale else unit, 1 / unit  # see amx.c
        parts = np.concatenate([weights * unit[:, None], np.stack(own, 1)], 1)
        return self.array(in_lanes(parts, 32).astype(np.float16)), None, wide

    def _block(self, block: Block, narrow: float, stem: Floats, inputs: Mapping[int, float]) -> BlockC:
        """`stem`: what its outputs in the ring are to be multiplied by; `inputs`, `narrow`: see `network`."""
        expand, depthwise, project = block.expand, block.depthwise, block.project
        first = expand or depthwise
        assert first is not None
        read, wide = inputs.get(id(expand), 0.0), inputs.get(id(project), 0.0)
        expansion, steps, times = ProductC(), StepsC(), stem
        if expand is not None:
            expansion, steps, times = self._widening(expand, read / 127)
        if depthwise is not None:
            where = (*depthwise.size, depthwise.weights.shape[-1], depthwise.stride, *depthwise.pads)
            *weights, wide = self._depthwise(depthwise, times, wide)
        else:
            where = (*first.size, 1, 1, 0, 0)
            steps, weights = self._counted(steps, times), [None, None]
        return BlockC(
            *where, block.residual, len(first.bias), expansion, steps, *weights, self._narrowing(project, wide, narrow),
            read / narrow if narrow else 0.0,
        )  # fmt: skip


def _check(network: Network, at_once: int) -> None:
    """`at_once`: pixels of a row that are made at a time; tiles end with a row, the others may overlap at its end."""
    multiple = 512 if at_once == 16 else 32
    if network.size % multiple:
        raise Unsuited(f"views of {network.size} pixels, not a multiple of {multiple}")
    if len(network.stem.bias) % 32:
        raise Unsuited(f"{len(network.stem.bias)} channels of the stem, not a multiple of 32")
    for block in network.blocks:
        if block.expand is not None and (len(block.expand.bias) % 16 or len(block.expand.bias) < 32):
            raise Unsuited(f"{len(block.expand.bias)} wide channels, not a multiple of 16")
        last = block.depthwise or block.expand
        width = -(-last.size[1] // last.stride) if last is not None else at_once
        if width < at_once:
            raise Unsuited(f"rows of {width} pixels, fewer than {at_once}")
