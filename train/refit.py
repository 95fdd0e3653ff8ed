"""Fits hidden units beside a bundle's members, on photographs with opinions and on ladders, and gives it reasons.

The networks and their heads stay as they are: whoever trains members runs this afterwards, on a CPU, and features are
computed once. Everything is judged on rows that nothing was fitted on: one fold of the labelled set, and the validation
part of the photographs.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from metaqap_fast.evaluation import measure
from metaqap_fast.model.bundle import Bundle
from metaqap_fast.train import hidden, rungs
from metaqap_fast.train.components import components, joined
from metaqap_fast.train.damage import KADIS, KINDS
from metaqap_fast.train.features import middle_views
from metaqap_fast.train.members import Examples
from metaqap_fast.train.opinion import Opinions, link, of_originals, opinions, read_cells, targets
from metaqap_fast.train.reasons import REASONS, calibrated, severities, steeper
from metaqap_fast.train.rehead import digest_of_body, read_head
from metaqap_fast.train.rungs import Rung
from metaqap_fast.train.seen import Eyes, Pooled, remember
from metaqap_fast.train.trial import Trial, people, trial
from metaqap_fast.train.units import Units, units

log = logging.getLogger(__name__)

F64 = NDArray[np.float64]
HELD = 0  # the fold of the labelled set that is held out
SEED = 2024
GOOD = 0.7  # quantile of opinions from which a photograph is a good one
BETTER = 0.4  # and one to be damaged for training
SEED_OF_BETTER = 77
LEFT_OUT = 5  # folds of KADIS' kinds, each left out of training once


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is seen, and how it is weighed.

    Attributes:
        images: of the labelled set that heads are fitted on, and as many as a fourth of it that are held out.
        photographs: that are damaged for training; 0 for all there are.
        better: of the better labelled images, how many are damaged for training too: more photographs and cameras.
        judged: photographs of the validation part, each damaged in every way.
        kinds: of five levels, that each photograph is damaged by.
        precision: of the features.
        components: of each member's taps, that the units see.
        layers: that are fitted for the score, and as many for the reasons.
        reason_units: of the one that is taught what these say in the mean.
        steps: of every fit; that one takes four times as many.
        mos: weight of a labelled photograph's opinion, beside a rung's of 1.
        still: weight of its score as it is.
        cells: weight of the mean over photographs at each level of each kind.
        dropout: share of the components that is left out at random.
    """

    images: int = 10_000
    photographs: int = 0
    better: int = 900
    judged: int = 16
    kinds: int = 3
    precision: str = "fp32"
    components: int = 1024
    layers: int = 4
    reason_units: int = 32
    steps: int = 400
    mos: float = 10.0
    still: float = 10.0
    cells: float = 1.0
    dropout: float = 0.2

    @property
    def weights(self) -> hidden.Weights:
        """Of the fits for the score."""
        return hidden.Weights(mos=self.mos, still=self.still, cells=self.cells, dropout=self.dropout, steps=self.steps)


@dataclass(frozen=True, slots=True)
class Seen:
    """Rungs, and what each member sees in them [n, D]."""

    rungs: list[Rung]
    pooled: list[Pooled]


@dataclass(frozen=True, slots=True)
class Material:
    """What units are fitted and judged on.

    `labelled` and `held` are each member's pooled taps of photographs, `mos` and `held_mos` their opinions.
    """

    labelled: list[Pooled]
    mos: F64
    held: list[Pooled]
    held_mos: F64
    taught: Seen
    judged: Seen
    cells: F64


Heads = list[tuple[F64, float]]  # of each member: weights [D] and bias on raw pooled taps


def see(
    bundle: Bundle, data: Examples, photographs: Path, cells: Path, work: Path, settings: Settings | None = None
) -> Material:
    """What a bundle's members see in everything that units are fitted on; kept under `work`.

    Args:
        bundle: with members that the native kernel runs.
        data: the labelled set's training images.
        photographs: folder of undamaged ones.
        cells: table of KADID's mean opinions, see `opinion.read_cells`.
        work: folder of the caches; another bundle has its own in it.
        settings: see `Settings`.
    """
    settings = settings or Settings()
    said = read_cells(cells)  # before hours are spent
    used = {
        "labelled": np.flatnonzero(data.folds != HELD)[: settings.images],
        "held": np.flatnonzero(data.folds == HELD)[: max(1, settings.images // 4)],
    }
    mos = data.mos[used["labelled"]]
    better = used["labelled"][mos >= np.quantile(mos, BETTER)]
    rng = np.random.default_rng(SEED_OF_BETTER)
    files = {part: rungs.photographs(photographs, part) for part in ("train", "validation")}
    files["train"] = files["train"][: settings.photographs or None]
    files["better"] = [data.files[i] for i in rng.permutation(better)[: settings.better]]
    plans = {
        "train": rungs.plan(len(files["train"]), settings.kinds, 2, 2, SEED),
        "better": rungs.sparse(len(files["better"]), 3, rng),
        "validation": rungs.everything(min(settings.judged, len(files["validation"])), SEED),
    }
    caches = {
        "train": f"train-{settings.kinds}-kinds",
        "better": f"better-of-{settings.images}",
        "validation": "validation",
    }
    folder = cache_of(bundle, work, settings)
    eyes = Eyes(bundle, settings.precision)

    def views_of(files: Sequence[Path], steps: Sequence[Rung]) -> Callable[[int, int], Any]:
        return lambda start, stop: rungs.views(files, steps[start:stop])

    seen = {
        part: Seen(steps, remember(eyes, len(steps), views_of(files[part], steps), folder / caches[part]))
        for part, steps in plans.items()
    }

    def images(files: Sequence[Path]) -> Callable[[int, int], Any]:
        return lambda start, stop: middle_views(files[start:stop])

    pooled = {
        part: remember(eyes, len(rows), images([data.files[i] for i in rows]), folder / part)
        for part, rows in used.items()
    }
    return Material(
        pooled["labelled"],
        data.mos[used["labelled"]],
        pooled["held"],
        data.mos[used["held"]],
        together(seen["train"], seen["better"]),
        seen["validation"],
        said,
    )


def together(first: Seen, second: Seen) -> Seen:
    """Both, as if their photographs were in one list."""
    count = 1 + max(rung.photograph for rung in first.rungs)
    moved = [replace(rung, photograph=rung.photograph + count) for rung in second.rungs]
    pooled = [np.concatenate(both) for both in zip(first.pooled, second.pooled, strict=True)]
    return Seen([*first.rungs, *moved], pooled)


def cache_of(bundle: Bundle, work: Path, settings: Settings) -> Path:
    """Where what a bundle's members see is kept: under what the networks are, whatever heads stand on them."""
    networks = "".join(digest_of_body(onnx.load(member.file)) for member in bundle.members)
    return work / f"{hashlib.sha256(networks.encode()).hexdigest()[:12]}-{settings.precision}"


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


def scores(bundle: Bundle, pooled: Sequence[Pooled], of: Heads) -> F64:
    """[n] what the meta-learner makes of them, not cut off at 0 and 1."""
    combined: F64 = predictions(pooled, of) @ np.array(bundle.meta.weights) + bundle.meta.intercept
    return combined


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
        kept = targets(steps, score, self.said, link(steps, score, self.said)) / of_originals(steps, score)
        self._parts = []
        for taught, labelled in zip(seen.taught.pooled, seen.labelled, strict=True):
            self._parts.append(components(labelled, taught, settings.components, SEED))
            log.info("%d components", self._parts[-1].directions.shape[1])
        self._severity = severities(steps, self.said)
        roots = np.sqrt(self._severity)  # the readout squares them
        self._taught = hidden.lessons(steps, joined(self._parts, seen.taught.pooled), score, kept, roots)
        self._labelled = hidden.Photographs(
            joined(self._parts, seen.labelled),
            torch.tensor(scores(bundle, seen.labelled, own), dtype=torch.float32),
            torch.tensor(seen.mos, dtype=torch.float32),
            torch.tensor(good(seen.mos)),
        )

    def fit(self, reasons_only: bool = False) -> Units:
        """The units, with reasons calibrated; with `reasons_only` they leave scores as they are, to the last bit."""
        settings = self._settings
        said = [layer.reasons for layer in self._reason_layers(settings.layers)]
        both = torch.cat([self._taught.x, self._labelled.x])
        reasons = hidden.distil(hidden.mean_of(said), both, settings.reason_units, SEED, 4 * settings.steps)
        scores_by = [] if reasons_only else self._score_layers(self._taught, settings.layers)
        return self._calibrated(self._units(hidden.joined_layers(scores_by, reasons)))

    def _reason_layers(self, count: int) -> list[hidden.Layer]:
        weights, layers = replace(self._settings.weights, score=0.0, reasons=1.0), []
        for place in range(count):
            layers.append(hidden.fit(self._taught, self._labelled, weights, hidden.FOR_REASONS, SEED + 100 + place))
            log.info("reasons: %d of %d layers", place + 1, count)
        return layers

    def _score_layers(self, taught: hidden.Lessons, count: int) -> list[hidden.Layer]:
        layers = []
        for place in range(count):
            layers.append(hidden.fit(taught, self._labelled, self._settings.weights, hidden.FOR_SCORE, SEED + place))
            log.info("score: %d of %d layers", place + 1, count)
        return layers

    def _units(self, layer: hidden.Layer) -> Units:
        """On raw taps. A layer changes the score; a unit, every member's prediction."""
        factor = np.ones(1 + len(REASONS))
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
            judged, held = judged + self._moved(made(seen.judged.pooled)), held + self._moved(made(seen.held))
        return trial(seen.judged.rungs, judged, seen.cells), measure(held, seen.held_mos)

    def _moved(self, given: F64) -> F64:
        """[n] what the score changes by when every member's prediction does."""
        moved: F64 = given[:, 0] * sum(self._bundle.meta.weights)
        return moved

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


def good(mos: F64) -> NDArray[np.bool_]:
    """Which photographs are good ones, by their opinions."""
    return mos >= np.quantile(mos, GOOD)
