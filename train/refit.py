"""Fits hidden units beside a bundle's members, on photographs with opinions and on ladders, and gives it reasons.

The networks and their heads stay as they are: whoever trains members runs this afterwards, on a CPU, and features are
computed once. Everything is judged on rows that nothing was fitted on: one fold of the labelled set, and the validation
part of the photographs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from metaqap_fast.evaluation import measure
from metaqap_fast.model.bundle import Bundle
from metaqap_fast.train import hidden, large, strange
from metaqap_fast.train.components import components, joined
from metaqap_fast.train.damage import KADIS, KINDS
from metaqap_fast.train.material import SEED, Material, Settings, good
from metaqap_fast.train.opinion import Opinions, link, of_originals, opinions, targets
from metaqap_fast.train.reasons import REASONS, calibrated, severities, steeper
from metaqap_fast.train.rehead import read_head
from metaqap_fast.train.seen import Pooled
from metaqap_fast.train.trial import Trial, people, trial
from metaqap_fast.train.units import Units, shipped_units, units

log = logging.getLogger(__name__)

F64 = NDArray[np.float64]
LEFT_OUT = 5  # folds of KADIS' kinds, each left out of training once

Only = Literal["", "scores", "reasons", "unfamiliar"]  # what is fitted; everything if empty
Heads = list[tuple[F64, float]]  # of each member: weights [D] and bias on raw pooled taps


def own_heads(bundle: Bundle) -> Heads:
    """The heads that a bundle has."""
    return [read_head(onnx.load(member.file)) for member in bundle.members]


def predictions(pooled: Sequence[Pooled], of: Heads) -> F64:
    """[n, M] members' predictions from their pooled taps."""
    return np.stack(
        [
            seen.astype(np.float32) @ weights.astype(np.float32) + bias
            for seen, (weights, bias) in zip(pooled, of, strict=True)
        ],
        1,
    ).astype(np.float64)


def said(bundle: Bundle, pooled: Sequence[Pooled], made: Units | None = None) -> F64:
    """[n, M] the predictions of a bundle's members, with the change of units if there are some."""
    alone = predictions(pooled, own_heads(bundle))
    return alone if made is None else alone + made(pooled)[:, :1]


def scores(bundle: Bundle, pooled: Sequence[Pooled], of: Heads) -> F64:
    """[n] what the meta-learner makes of them, not cut off at 0 and 1."""
    combined: F64 = predictions(pooled, of) @ np.array(bundle.meta.weights) + bundle.meta.intercept
    return combined


def shipped_scores(bundle: Bundle, pooled: Sequence[Pooled]) -> F64:
    """[n] what a bundle says, with its units, from what its members see; not cut off at 0 and 1."""
    said, made = scores(bundle, pooled, own_heads(bundle)), shipped_units(bundle)
    return said if made is None else said + moved(bundle, made(pooled))


def moved(bundle: Bundle, given: F64) -> F64:
    """[n] what the score changes by when every member's prediction does, by column 0 of what units give."""
    found: F64 = given[:, 0] * sum(bundle.meta.weights)
    return found


@dataclass(frozen=True, slots=True)
class Larger:
    """What a larger model scores, with its units: `taught` rungs, `labelled` photographs, copies of `large` ones."""

    taught: F64
    labelled: F64
    large: F64 | None


def scored_by(bundle: Bundle, seen: Material) -> Larger:
    """What a bundle says of everything that units are fitted on."""
    large_ones = None if seen.large is None else shipped_scores(bundle, seen.large.pooled)
    return Larger(shipped_scores(bundle, seen.taught.pooled), shipped_scores(bundle, seen.labelled), large_ones)


class Refit:
    """Hidden units for a bundle, from what its members see; components are computed once, for every fit.

    Args:
        bundle: the members.
        seen: what they see.
        settings: see `Settings`.
    """

    def __init__(self, bundle: Bundle, seen: Material, settings: Settings) -> None:
        self._bundle, self._seen, self._settings = bundle, seen, settings
        self.said: Opinions = opinions(seen.cells)
        steps, own = seen.taught.rungs, own_heads(bundle)
        score = scores(bundle, seen.taught.pooled, own)
        tied = link(steps, score, self.said)
        kept = targets(steps, score, self.said, tied) / of_originals(steps, score)
        self._parts = []
        for taught, labelled in zip(seen.taught.pooled, seen.labelled, strict=True):
            self._parts.append(components(labelled, taught, settings.components, SEED))
            log.info("%d components", self._parts[-1].directions.shape[1])
        self._severity = severities(steps, self.said)
        roots = np.sqrt(self._severity)  # the readout squares them
        self._taught = hidden.lessons(steps, joined(self._parts, seen.taught.pooled), score, kept, roots)
        self._labelled = hidden.Photographs(
            joined(self._parts, seen.labelled),
            _float32(scores(bundle, seen.labelled, own)),
            _float32(seen.mos),
            torch.tensor(good(seen.mos)),
        )
        self._large: tuple[hidden.Lessons, hidden.Photographs] | None = None
        if seen.large is not None:
            x, score = joined(self._parts, seen.large.pooled), scores(bundle, seen.large.pooled, own)
            kept = large.share_kept(seen.large.target, seen.cells, tied)
            copies = large.lessons(seen.large, x, score, kept, len(REASONS))
            self._large = copies.times(settings.large), large.photographs(seen.large, x, score)

    def follow(self, larger: Larger) -> None:
        """From now on a copy is to lose what a larger model says that it loses, instead of what the targets say, and a
        photograph's opinion is the mean of people's and the larger model's."""
        self._taught = replace(self._taught, kept=_kept(larger.taught, self._taught.original))
        self._labelled = replace(self._labelled, mos=_float32((self._seen.mos + larger.labelled) / 2))
        if self._large is not None and larger.large is not None:
            copies, photographs = self._large
            self._large = replace(copies, kept=_kept(larger.large, copies.original)), photographs

    def fit(self, only: Only = "", odd: Sequence[Pooled] | None = None) -> Units:
        """The units, with reasons calibrated.

        Args:
            only: what is fitted; the bundle's units for everything else stay.
            odd: each member's raw taps of pictures that are no photographs; with them the units tell those too.
        """
        own = shipped_units(self._bundle)
        if only == "unfamiliar":
            assert own is not None and odd is not None  # `refit_run` asks before hours are spent
            return self._with_strange(own.saying([name for name in own.names if name != strange.NAME]), odd)
        settings = self._settings
        if only == "scores":
            assert own is not None
            layer = hidden.joined_layers(self._score_layers(self._taught, settings.layers))
            return own.saying(own.names, score=False).beside(self._units(layer))
        said = [layer.reasons for layer in self._reason_layers(settings.layers)]
        reasons = hidden.distil(hidden.mean_of(said), self._everything, settings.reason_units, SEED, 4 * settings.steps)
        scores_by = [] if only else self._score_layers(self._taught, settings.layers)
        made = self._calibrated(self._units(hidden.joined_layers(scores_by, reasons)))
        if only and own is not None:
            made = own.saying([]).beside(made)
            if odd is None and strange.NAME in own.names:
                made = made.beside(own.saying([strange.NAME], score=False))
        return made if odd is None else self._with_strange(made, odd)

    @property
    def _everything(self) -> torch.Tensor:
        """Coordinates of what is taught and of the labelled photographs."""
        return torch.cat([self._taught.x, self._labelled.x])

    def _with_strange(self, made: Units, odd: Sequence[Pooled]) -> Units:
        settings, pictures = self._settings, joined(self._parts, odd)
        layer = strange.fit(self._everything, pictures, settings.steps, settings.dropout, SEED)
        return strange.beside(made, layer, self._parts, self._seen.held, pictures)

    def _reason_layers(self, count: int) -> list[hidden.Layer]:
        weights, layers = self._settings.weights_of_reasons, []
        for place in range(count):
            layers.append(hidden.fit(self._taught, self._labelled, weights, hidden.FOR_REASONS, SEED + 100 + place))
            log.info("reasons: %d of %d layers", place + 1, count)
        return layers

    def _score_layers(self, taught: hidden.Lessons, count: int) -> list[hidden.Layer]:
        layers, labelled, settings = [], self._labelled, self._settings
        if self._large is not None:
            taught, labelled = taught.beside(self._large[0]), labelled.beside(self._large[1])
        for place in range(count):
            layers.append(hidden.fit(taught, labelled, settings.weights, settings.score_units, SEED + place))
            log.info("score: %d of %d layers", place + 1, count)
        return layers

    def _units(self, layer: hidden.Layer) -> Units:
        """On raw taps. A layer changes the score; a unit, every member's prediction."""
        factor = np.ones(layer.last.out_features)
        factor[0] = 1 / sum(self._bundle.meta.weights)
        return units(layer, self._parts).scaled(factor, np.zeros_like(factor))

    def _calibrated(self, made: Units) -> Units:
        """So that a stated share of good photographs that were not taught is flagged."""
        seen = self._seen
        others = made([member[good(seen.held_mos)] for member in seen.held])[:, 1:]
        severity = np.sqrt(np.nan_to_num(self._severity, nan=0))
        factor, shift = calibrated(made(seen.taught.pooled)[:, 1:], others, severity)
        scaled = made.scaled(np.concatenate([[1.0], factor]), np.concatenate([[0.0], shift]))
        return replace(scaled, steeper=steeper(others * factor + shift))

    def judge(self, made: Units | None = None) -> tuple[Trial, dict[str, float]]:
        """The trial on the validation photographs, and agreement with opinions on the held-out fold."""
        seen, own = self._seen, own_heads(self._bundle)
        judged, held = (scores(self._bundle, pooled, own) for pooled in (seen.judged.pooled, seen.held))
        if made is not None:
            judged = judged + moved(self._bundle, made(seen.judged.pooled))
            held = held + moved(self._bundle, made(seen.held))
        return trial(seen.judged.rungs, judged, seen.cells), measure(held, seen.held_mos)

    def unseen_kinds(self) -> float:
        """Agreement with people over the 125 cells, each scored by a layer that was not taught its kind."""
        order = np.random.default_rng(SEED).permutation(KADIS)
        means = np.full((len(KINDS), 6), np.nan)
        each = []
        for fold in range(LEFT_OUT):
            kinds = [int(kind) for kind in order[fold::LEFT_OUT]]
            names = {KINDS[kind].name for kind in kinds}
            out = {i for i, kind in enumerate(KINDS) if kind.name in names or kind.like in names}
            left = hidden.without(self._taught, self._seen.taught.rungs, out)
            (layer,) = self._score_layers(left, 1)
            found, _ = self.judge(self._units(layer))
            means[kinds] = found.cells[kinds]
            each.append(people(found.cells, self._seen.cells, kinds))
        log.info("agreement within each fold of kinds left out: %s", ", ".join(f"{value:.3f}" for value in each))
        return people(means, self._seen.cells)


def _kept(score: F64, original: NDArray[np.int64]) -> torch.Tensor:
    """[n] share of the original's score that is left, by the originals' rows; one that scores nearly nothing has
    nothing to lose."""
    return _float32((score / score[original].clip(0.05)).clip(0, 2))


def _float32(values: F64) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)
