"""How the paths that multiply in fp32, and in int8 without AMX, read a member: `fp32_vectors.h`, `int8.h`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.engine.native.layout import Layout
from metaqap_fast.engine.native.library import BlockC, NarrowingC, NetworkC, ProductC, StepsC
from metaqap_fast.engine.native.packing import CAP, Levels, finest, grouped, in_lanes, packed, padded, rounded
from metaqap_fast.engine.native.reader import Block, Convolution, Floats, Network, Unsuited

WIDE_BITS = 24  # of the stem's sums up to 6
SHORT = 2**15 - 1
LARGEST = 2**30  # of a bias
COUNTED = 8  # parts that statistics of the ring leave out
PARTS = 6  # bits of the parts of a value that a later block adds
FINE, COARSE = (
    4095,
    1023,
)  # what 6 is at most and, unless weights are very large, at least, in sums of depthwise convolutions


def _where(block: Block) -> tuple[int, ...]:
    if (each := block.depthwise) is not None:
        return (*each.size, each.weights.shape[-1], each.stride, *each.pads)
    assert block.expand is not None
    return (*block.expand.size, 1, 1, 0, 0)


def _stem_rows(network: Network) -> Floats:
    """The stem's weights with the normalisation in them, [N, 3 rows, 9], for pixels from 0 to 255."""
    weights: Floats = network.stem.weights.transpose(0, 2, 3, 1) * network.scale
    return weights.reshape(-1, 3, 9)


class Fp32Layout(Layout):
    """Weights as they are."""

    def network(self, network: Network, inputs: dict[int, float], after: Sequence[float]) -> NetworkC:
        """See `Layout.network`."""
        weights = _stem_rows(network)
        mean = weights.reshape(len(weights), -1).astype(np.float64) @ np.tile(network.mean, 9)
        stem = self.product(27, len(weights), grouped(weights, 1), (network.stem.bias - mean).astype(np.float32))
        blocks = [self._block(block) for block in network.blocks]
        return self.joined(network, False, [], stem, StepsC(), blocks)

    def _product(self, each: Convolution | None) -> ProductC:
        if each is None:
            return ProductC()
        weights = each.weights[:, :, 0, 0]
        return self.product(weights.shape[1], len(weights), packed(weights, 1, 16), each.bias)

    def _block(self, block: Block) -> BlockC:
        first = block.expand or block.depthwise
        assert first is not None
        weights = bias = None
        if (each := block.depthwise) is not None:
            weights = self.floats(in_lanes(each.weights[:, 0].reshape(len(each.bias), -1), 16))
            bias = self.floats(padded(each.bias, 16))
        return BlockC(
            *_where(block), block.residual, len(first.bias), self._product(block.expand), StepsC(), weights, bias,
            self._product(block.project), 0.0,
        )  # fmt: skip


class Int8Layout(Layout):
    """The arithmetic of int8.h."""

    def __init__(self, levels: Levels) -> None:
        super().__init__()
        self._levels = levels

    def network(self, network: Network, inputs: dict[int, float], after: Sequence[float]) -> NetworkC:
        """See `Layout.network`.

        Raises:
            Unsuited: a range is so small that whole numbers do not do.
        """
        rows = _stem_rows(network)
        whole, steps = rounded(rows.reshape(len(rows), -1), finest(1, WIDE_BITS), self._levels.weights)
        bias = (network.stem.bias - whole.astype(np.float64) @ np.tile(network.mean, 9) * steps).astype(np.float32)
        filled = np.pad(whole.reshape(rows.shape), [(0, 0), (0, 0), (0, 3)])
        stem = self.product(27, len(whole), grouped(filled, 4))
        parts, ring = self._counted(*self._steps(steps, bias, np.zeros(len(whole), np.int64)))
        kept, blocks = 0, []
        for block, narrow in zip(network.blocks, after, strict=True):
            blocks.append(self._block(block, narrow, ring, inputs, kept))
            kept = blocks[-1].narrowing.kept
        outside = np.rint(network.mean).astype(np.uint16)
        return self.joined(network, True, list(outside), stem, parts, blocks)

    def _whole(self, weights: Floats, least: float) -> tuple[NDArray[np.int8], Floats, ProductC]:
        """Weights [N, K] as whole numbers, the steps that they count, and both as they are stored."""
        whole, steps = rounded(weights, least, self._levels.weights)
        return whole, steps, self.product(whole.shape[1], len(whole), packed(whole, 4, 32))

    def _steps(self, unit: Floats, bias: Floats, zero: NDArray[np.int64]) -> tuple[StepsC, Floats]:
        """What makes sums that count `unit` numbers of the ring, and the step that these count.

        `zero`: what sums are larger than they mean.
        """
        shift = np.maximum(np.floor(np.log2(CAP / unit)) + 1 - self._levels.bits, 0)
        unit = unit.astype(np.float64) * np.exp2(shift)
        whole = np.clip(np.rint((bias / unit + 0.5 * (shift > 0)) * np.exp2(shift)), -LARGEST, LARGEST) - zero
        cap = np.minimum(np.rint(CAP / unit), SHORT)
        factor = np.exp2(np.floor(np.log2(SHORT / np.maximum(cap, 1))))
        parts = [self.array(padded(each.astype(np.int32), 32)) for each in (whole, shift)]
        parts += [self.array(padded(each.astype(np.int16), 32)) for each in (factor, cap)]
        return StepsC(*parts), (unit / factor).astype(np.float32)

    def _counted(self, steps: StepsC, unit: Floats) -> tuple[StepsC, Floats]:
        """With what statistics of the ring count."""
        steps.times = self.floats(padded(unit * COUNTED, 32))
        return steps, unit

    def _widening(self, each: Convolution, step: float) -> tuple[ProductC, StepsC, Floats]:
        """An expansion of inputs that count `step`; and the step that its outputs in the ring count, [N]."""
        whole, steps, product = self._whole(each.weights[:, :, 0, 0], finest(step, self._levels.bits))
        zero = self._levels.half * whole.sum(1, dtype=np.int64)
        return product, *self._steps(steps * np.float32(step), each.bias, zero)

    def _depthwise(self, each: Convolution, ring: Floats, wide: float) -> tuple[int, Floats, Floats]:
        """Weights and what else a channel has; the steps, [C], that its sums count, and that the strip does.

        `ring`: the steps that inputs count; `wide`: the largest output.
        """
        weights = each.weights[:, 0].reshape(len(each.bias), -1).astype(np.float64)
        most, bias = min(float(CAP), wide), np.abs(each.bias)
        finest_of_weights = np.abs(weights).max(1) * ring * (SHORT + 1) / (SHORT - 0.5)
        whole_sum = (bias + CAP * np.abs(weights).sum(1)) / SHORT  # nothing is saturated then
        unit = np.maximum.reduce([
            np.full(len(bias), most / FINE), finest_of_weights, np.minimum(whole_sum, most / COARSE), bias / SHORT
        ])  # fmt: skip
        cap = np.rint(most / unit)
        scale = np.clip(np.rint(self._levels.inputs / np.maximum(cap, 1) * (SHORT + 1)), 1, SHORT)
        taps = np.rint(weights * (ring / unit * (SHORT + 1))[:, None])
        own = np.stack([np.rint(each.bias / unit), cap, scale], 1)
        parts = np.concatenate([taps, own], 1).astype(np.int16)
        strip = unit * (SHORT + 1) / scale
        return self.array(in_lanes(parts, 32)), unit.astype(np.float32), strip.astype(np.float32)

    def _narrowing(
        self, each: Convolution, strip: Floats, narrow: float, read: float, kept: int
    ) -> tuple[ProductC, NarrowingC]:
        """A projection of inputs that count `strip` [K], for a next block that reads up to `narrow`.

        `read`: what this block reads, which is added in parts of 2^`kept` if it is not 0.
        """
        step, reads = np.float32(strip.max()), self._levels.step(narrow)
        steps, product = self._whole(each.weights[:, :, 0, 0] * (strip / step), 0.0)[1:]
        counts = steps.astype(np.float64) * step / reads  # that a sum has of what the next block reads
        ratio = read / narrow * 2.0**-kept
        parts = min(PARTS, math.ceil(-math.log2(counts.max())) - 1)
        if read:
            parts = min(parts, math.ceil(1 - math.log2(ratio)) - 1)
        if parts < 0:
            raise Unsuited(f"a range of {narrow:.3g} is too small for whole numbers")
        counts *= 2.0**parts
        shift = np.clip(np.floor(-np.log2(counts)), 0, 30)
        factor = np.minimum(np.rint(counts * np.exp2(shift) * (SHORT + 1)), SHORT)  # from 1/2 to 1
        start = np.rint(each.bias / reads * 2.0**parts / counts) + np.where(shift, np.exp2(shift) / 2, 0)
        whole = [np.clip(start, -LARGEST, LARGEST).astype(np.int32), shift.astype(np.int32)]
        stored = [self.array(padded(part, 32)) for part in whole]
        stored.append(self.array(padded(factor.astype(np.int16), 32)))
        added = min(round(ratio * 2.0**parts * (SHORT + 1) / 2), SHORT)
        return product, NarrowingC(*stored, parts, added, self._levels.half)

    def _block(self, block: Block, narrow: float, ring: Floats, inputs: dict[int, float], kept: int) -> BlockC:
        """`ring`: that the stem's outputs count; `inputs`, `narrow`: see `network`; `kept`: of the block before."""
        first = block.expand or block.depthwise
        assert first is not None
        expansion, steps, project, weights, narrowing = ProductC(), StepsC(), ProductC(), None, NarrowingC()
        if block.expand is not None:
            expansion, steps, ring = self._widening(block.expand, self._levels.step(inputs[id(block.expand)]))
        if block.depthwise is not None:
            assert block.project is not None
            weights, unit, strip = self._depthwise(block.depthwise, ring, inputs[id(block.project)])
            steps.times = self.floats(padded(unit, 32))
            read = inputs[id(block.expand)] if block.residual else 0.0
            project, narrowing = self._narrowing(block.project, strip, narrow, read, kept)
        else:
            steps, _ = self._counted(steps, ring)
        return BlockC(
            *_where(block), block.residual, len(first.bias), expansion, steps, weights, None, project, 0.0, narrowing
        )
