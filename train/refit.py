"""Fits the heads of a bundle's members anew, on photographs with opinions and on ladders, and gives it reasons.

The networks stay as they are: whoever trains members runs this afterwards, on a CPU, and features are computed once.
Everything is chosen and judged on rows that nothing was fitted on: one fold of the labelled set, and the validation
part of the photographs.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from metaqap_fast.evaluation import measure
from metaqap_fast.model.bundle import Bundle
from metaqap_fast.train import heads, rungs
from metaqap_fast.train.damage import KADIS, KINDS
from metaqap_fast.train.features import middle_views
from metaqap_fast.train.members import Examples
from metaqap_fast.train.opinion import Opinions, link, opinions, originals, read_cells, targets
from metaqap_fast.train.rehead import digest_of_body, read_head
from metaqap_fast.train.rungs import Rung
from metaqap_fast.train.seen import Eyes, Pooled, remember
from metaqap_fast.train.trial import Trial, people, trial

log = logging.getLogger(__name__)

F64 = NDArray[np.float64]
HELD = 0  # the fold of the labelled set that is held out
SEED = 2024
LEFT_OUT = 5  # folds of KADIS' kinds, each left out of training once


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is seen, and how it is weighed.

    Attributes:
        images: of the labelled set that heads are fitted on, and as many as a fourth of it that are held out.
        photographs: that are damaged for training; 0 for all there are.
        judged: photographs of the validation part, each damaged in every way.
        kinds: of five levels, that each photograph is damaged by.
        precision: of the features.
        penalty: on the change of a head.
        still: weight of a labelled photograph, whose score is not to change, beside a rung's of 1.
    """

    images: int = 10_000
    photographs: int = 0
    judged: int = 16
    kinds: int = 3
    precision: str = "fp32"
    penalty: float = 0.3
    still: float = 1.0


@dataclass(frozen=True, slots=True)
class Seen:
    """Rungs, and what each member sees in them [n, D]."""

    rungs: list[Rung]
    pooled: list[Pooled]


@dataclass(frozen=True, slots=True)
class Material:
    """What heads are fitted and judged on.

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
    """What a bundle's members see in everything that heads are fitted on; kept under `work`.

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
    parts = {part: rungs.photographs(photographs, part) for part in ("train", "validation")}
    teaching = parts["train"][: settings.photographs or None]
    plans = {
        "train": rungs.plan(len(teaching), settings.kinds, 2, 2, SEED),
        "validation": rungs.everything(min(settings.judged, len(parts["validation"])), SEED),
    }
    folder = cache_of(bundle, work, settings)
    caches = {"train": folder / f"train-{settings.kinds}-kinds", "validation": folder / "validation"}
    eyes = Eyes(bundle, settings.precision)

    def views_of(files: Sequence[Path], steps: Sequence[Rung]) -> Callable[[int, int], Any]:
        return lambda start, stop: rungs.views(files, steps[start:stop])

    seen = {
        part: Seen(steps, remember(eyes, len(steps), views_of(parts[part], steps), caches[part]))
        for part, steps in plans.items()
    }
    used = {
        "labelled": np.flatnonzero(data.folds != HELD)[: settings.images],
        "held": np.flatnonzero(data.folds == HELD)[: max(1, settings.images // 4)],
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
        seen["train"],
        seen["validation"],
        said,
    )


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
    """New heads for a bundle's members, from what they see; kernels are computed once, for every fit.

    Args:
        bundle: the members.
        seen: what they see.
    """

    def __init__(self, bundle: Bundle, seen: Material) -> None:
        self._bundle, self._seen, self._own = bundle, seen, own_heads(bundle)
        self.said: Opinions = opinions(seen.cells)
        steps, rows = seen.taught.rungs, len(seen.taught.rungs)
        own = scores(bundle, seen.taught.pooled, self._own)
        self.kept = link(steps, own, self.said)
        self._targets = targets(steps, own, self.said, self.kept)
        self._original = originals(steps)
        self._standard, self._x, self._kernels = [], [], []
        for taught, labelled in zip(seen.taught.pooled, seen.labelled, strict=True):
            both = np.concatenate([taught, labelled])
            self._standard.append(heads.standard(labelled, taught))
            self._x.append(heads.standardised(both, self._standard[-1]))
            self._kernels.append(heads.gram(self._x[-1]))
            log.info("kernel of %d rows", len(both))
        self._still = np.arange(rows, rows + len(seen.mos))

    def fit(self, settings: Settings, without: Sequence[str] = ()) -> Heads:
        """Heads by these weights.

        Args:
            settings: `penalty` and `still` are read.
            without: kinds that are left out, and all that are like them.
        """
        steps = self._seen.taught.rungs
        out = {i for i, kind in enumerate(KINDS) if kind.name in without or kind.like in without}
        pairs = np.array([bool(rung.steps) and not any(step.kind in out for step in rung.steps) for rung in steps])
        rows = np.flatnonzero(pairs)
        drops = self._targets - self._targets[self._original]
        fitted = []
        for member, (weights, bias) in enumerate(self._own):
            now = predictions([self._seen.taught.pooled[member]], [(weights, bias)])[:, 0]
            asked = heads.Change(
                rows, self._original[rows], drops[rows] - (now - now[self._original])[rows], np.ones(len(rows))
            )
            count = len(self._still)
            still = heads.Change(
                self._still, np.full(count, -1), np.zeros(count), np.full(count, max(1e-6, settings.still))
            )
            coefficients = heads.solve(self._kernels[member], heads.join(asked, still), settings.penalty)
            change = heads.raw(self._x[member], coefficients, self._standard[member])
            # The constant cancels within a content: the labelled photographs keep their mean.
            moved = self._seen.labelled[member].astype(np.float32) @ change.astype(np.float32)
            fitted.append((weights + change, bias - float(moved.mean())))
        return fitted

    def judge(self, of: Heads | None = None) -> tuple[Trial, dict[str, float]]:
        """The trial on the validation photographs, and agreement with opinions on the held-out fold."""
        of = of or self._own
        judged = scores(self._bundle, self._seen.judged.pooled, of)
        held = scores(self._bundle, self._seen.held, of)
        return trial(self._seen.judged.rungs, judged, self._seen.cells), measure(held, self._seen.held_mos)

    def unseen_kinds(self, settings: Settings) -> float:
        """Agreement with people over the 125 cells, each scored by heads that were not taught its kind."""
        order = np.random.default_rng(SEED).permutation(KADIS)
        means = np.full((len(KINDS), 6), np.nan)
        each = []
        for fold in range(LEFT_OUT):
            kinds = [int(kind) for kind in order[fold::LEFT_OUT]]
            of = self.fit(settings, [KINDS[kind].name for kind in kinds])
            found, _ = self.judge(of)
            means[kinds] = found.cells[kinds]
            each.append(people(found.cells, self._seen.cells, kinds))
        log.info("agreement within each fold of kinds left out: %s", ", ".join(f"{value:.3f}" for value in each))
        return people(means, self._seen.cells)
