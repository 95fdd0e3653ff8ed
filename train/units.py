"""The hidden units of a bundle as they read raw taps, and their last layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from metaqap_fast.model.bundle import Bundle
from metaqap_fast.model.readout import LEVEL, NEVER, Fading
from metaqap_fast.train.components import Components
from metaqap_fast.train.hidden import Layer
from metaqap_fast.train.reasons import REASONS
from metaqap_fast.train.rehead import read_units
from metaqap_fast.train.seen import Pooled

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Units:
    """U hidden units beside a bundle's members, see `metaqap_fast.model.readout`.

    Attributes:
        shares: of each member, weights [D, U] on its raw taps.
        start: [U] what the shares are added to.
        weights: [U, 1 + R] of the last layer.
        bias: [1 + R].
        steeper: [R] for roots below the level from which a reason is named.
        names: R, of the severities.
        fading: of units that read fine views.
        lines: of a picture, which these see; 0 for units that do not.
    """

    shares: list[F32]
    start: F64
    weights: F64
    bias: F64
    steeper: F64
    names: tuple[str, ...] = REASONS
    fading: Fading = NEVER
    lines: int = 0

    def __call__(self, pooled: Sequence[Pooled]) -> F64:
        """[n, 1 + R] from the members' raw taps [n, D]: the change of the score, and roots of severities."""
        hidden = np.zeros((len(pooled[0]), len(self.start)))
        for seen, share in zip(pooled, self.shares, strict=True):
            hidden += seen.astype(np.float32) @ share
        given: F64 = (hidden + self.start).clip(0) @ self.weights + self.bias
        return given

    def severities(self, pooled: Sequence[Pooled]) -> F64:
        """[n, R] from 0 to 1, as a score file has them."""
        roots = self(pooled)[:, 1:]
        roots = roots - ((LEVEL - roots) * self.steeper).clip(0)
        found: F64 = roots.clip(0, 1) ** 2
        return found

    def scaled(self, factor: F64, shift: F64) -> Units:
        """With every column [1 + R] times a factor, and moved."""
        return replace(self, weights=self.weights * factor, bias=self.bias * factor + shift)

    def beside(self, others: Units) -> Units:
        """With other units: the score changes by both, and their severities come last."""
        weights = np.zeros((len(self.start) + len(others.start), len(self.bias) + len(others.names)))
        weights[: len(self.start), : len(self.bias)] = self.weights
        weights[len(self.start) :, 0] = others.weights[:, 0]
        weights[len(self.start) :, len(self.bias) :] = others.weights[:, 1:]
        bias = np.concatenate([self.bias, others.bias[1:]])
        bias[0] += others.bias[0]
        return Units(
            [np.concatenate(both, 1) for both in zip(self.shares, others.shares, strict=True)],
            np.concatenate([self.start, others.start]),
            weights,
            bias,
            np.concatenate([self.steeper, others.steeper]),
            (*self.names, *others.names),
        )

    def saying(self, names: Sequence[str], score: bool = True) -> Units:
        """Those of the units that say something of some severities, or of the score unless `score` is false."""
        severities = [self.names.index(name) for name in names]
        columns = [0, *(1 + place for place in severities)]
        weights, bias = self.weights[:, columns], self.bias[columns]  # copies
        if not score:
            weights[:, 0], bias[0] = 0, 0
        used = (weights != 0).any(1)
        shares = [share[:, used] for share in self.shares]
        return Units(shares, self.start[used], weights[used], bias, self.steeper[severities], tuple(names))


def shipped_units(bundle: Bundle) -> Units | None:
    """The units of a bundle, without those that read fine views; None if it has none."""
    if bundle.hidden is None:
        return None
    weights, bias, steeper = (
        np.array(values, np.float64) for values in (bundle.hidden.weights, bundle.hidden.bias, bundle.hidden.steeper)
    )
    shares, start = _shares(bundle)
    count = len(weights)
    return Units([share[:, :count] for share in shares], start[:count], weights, bias, steeper, bundle.reasons)


def shipped_fine(bundle: Bundle) -> Units | None:
    """The units of a bundle that read fine views; None if it has none."""
    if bundle.hidden is None or not bundle.has_fine:
        return None
    weights, bias = np.array(bundle.hidden.fine_weights)[:, None], np.array([bundle.hidden.fine_bias])
    shares, start = _shares(bundle)
    first = len(start) - len(weights)
    last = bundle.hidden
    return Units(
        [share[:, first:] for share in shares],
        start[first:],
        weights,
        bias,
        np.zeros(0),
        (),
        last.fading,
        last.fine_lines,
    )


def _shares(bundle: Bundle) -> tuple[list[F32], F64]:
    """Of all units, those that read fine views last: each member's weights, and what the shares are added to."""
    found = [read_units(onnx.load(member.file)) for member in bundle.members]
    shares = [each for each in found if each is not None]
    assert len(shares) == len(found), "every member of a bundle that is trained here has a share"
    return [weights for weights, _ in shares], np.sum([start for _, start in shares], 0)


def units(layer: Layer, parts: Sequence[Components]) -> Units:
    """A layer on members' coordinates, side by side, as units on their raw taps."""
    weights, start = (values.detach().numpy() for values in (layer.units.weight, layer.units.bias))
    start, place, shares = start.astype(np.float64), 0, []
    for part in parts:
        count = part.directions.shape[1]
        share, offset = part.raw(weights[:, place : place + count].T)
        shares.append(share)
        start, place = start + offset, place + count
    # A unit may be scaled, as its last layer makes up for it: weights of at most 1 keep their digits as fp16.
    scale = np.max([np.abs(share).max(0) for share in shares], axis=0).clip(1e-30)
    last, bias = (values.detach().numpy().astype(np.float64) for values in (layer.last.weight, layer.last.bias))
    names = REASONS[: len(bias) - 1]  # none of a layer for the score alone
    return Units(
        [share / scale for share in shares], start / scale, last.T * scale[:, None], bias, np.zeros(len(names)), names
    )
