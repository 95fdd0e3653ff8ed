"""Trains the members of an ensemble, and leaves what the meta-learner needs: modules and held-out predictions.

Everything is kept under one work folder, a folder for each member: the cache of its network's first view of the
images, and a run for each model. A second call with the same arguments reads finished runs back and goes on with
unfinished ones.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metaqap_fast.errors import UsageError
from metaqap_fast.evaluation import measure
from metaqap_fast.train.features import Cache, cached, middle_views
from metaqap_fast.train.finetune import Order, finetune
from metaqap_fast.train.ladders import RUNGS, ladders
from metaqap_fast.train.member import Features, Member
from metaqap_fast.train.networks import Config, read_config
from metaqap_fast.train.pretrain import first_network
from metaqap_fast.train.recipe import FOLDS, Recipe
from metaqap_fast.train.ridge import fit_ridge, grouped_folds
from metaqap_fast.train.shipped import shipped_head, shipped_network
from metaqap_fast.train.twins import groups, near_duplicates

log = logging.getLogger(__name__)

ALPHAS = (0.5, 1.0, 2.0, 4.0)  # penalties of a frozen network's head
SEED = 2021
SMALLEST_FOLD = 5  # what a logistic can be fitted on

F64 = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Examples:
    """Training images: files [n], MOS [n] in 0..1, fold [n] of each; near-duplicates share a fold."""

    files: list[Path]
    mos: F64
    folds: Rows
    twins: int


@dataclass(frozen=True, slots=True)
class Trained:
    """A member and its predictions by models that had not seen the image: [n], NaN where there is none."""

    name: str
    config: Config
    member: Member
    held_out: F64
    facts: dict[str, Any]  # for bundle.json


def examples(files: Sequence[Path], mos: F64, reference: Sequence[str] | None = None) -> Examples:
    """Deal images to FOLDS folds.

    Args:
        files: [n] images.
        mos: [n] in 0..1.
        reference: the pristine image that each was made from: those of one share a fold.
    """
    pairs = near_duplicates(files)
    if reference is not None:
        first = {name: i for i, name in reversed(list(enumerate(reference)))}
        pairs = [*pairs, *((first[name], i) for i, name in enumerate(reference) if first[name] != i)]
    folds = grouped_folds(groups(len(files), pairs), FOLDS, SEED)
    if np.bincount(folds, minlength=FOLDS).min() < SMALLEST_FOLD:
        raise UsageError(f"{len(files)} images are too few to train on in {FOLDS} folds of {SMALLEST_FOLD} or more")
    return Examples(list(files), mos, folds, len(pairs))


def member_name(wanted: str) -> tuple[str, Path | None]:
    """`NETWORK`, `NETWORK@FOLDER/RUN` or `NETWORK@BUNDLE/MEMBER.onnx`: the network's name or .toml file, and the run of
    its pretraining, or the member of a bundle that training goes on from."""
    network, _, run = wanted.partition("@")
    return network, Path(run) if run else None


def train_member(
    wanted: str, data: Examples, recipe: Recipe | None, work: Path, device: torch.device, cache: Path | None = None
) -> Trained:
    """Train one member, or read it back.

    Args:
        wanted: see `member_name`.
        data: the training images.
        recipe: how it is fine-tuned; None for a ridge head on the frozen network.
        work: folder of all members.
        device: cpu or cuda.
        cache: folder of the caches, `work` if not given.
    """
    network, pretraining = member_name(wanted)
    config = read_config(network)
    name = config.name + (f"_{pretraining.resolve().parent.name}" if pretraining else "")
    shipped = pretraining if pretraining is not None and pretraining.suffix == ".onnx" else None
    if shipped and (recipe is None or recipe.folds > 1 or recipe.refit):
        raise UsageError(
            f"{wanted}: a member goes on with the fold that it held out: --budget cpu, folds = 1, no refit"
        )
    network_now = first_network(config, pretraining) if shipped is None else shipped_network(shipped, config)
    features = Features(config, network_now)
    start = None if shipped is None else shipped_head(shipped)
    stage = recipe.frozen_stages if recipe else 0
    kept = (cache or work) / name
    views = functools.partial(middle_views, data.files)
    seen_by = cached(features, views, len(data.files), kept, stage if recipe else None, device)
    facts: dict[str, Any] = {
        "initial_weights": config.weights.distribution,
        "initial_weights_licence": config.weights.licence,
        "pretrained_on_distortions": pretraining is not None and shipped is None,
    }
    if shipped is not None:
        facts["goes_on_from"] = hashlib.sha256(shipped.read_bytes()).hexdigest()
    if recipe is None:
        head = fit_ridge(np.asarray(seen_by.pooled), data.mos, data.folds, ALPHAS)
        trained = Trained(
            name, config, Member(features, head.weights, head.bias), head.out_of_fold, facts | {"alpha": head.alpha}
        )
    else:
        held_out = np.full(len(data.files), np.nan)
        folder = kept / ("ladders" if recipe.ladder_kinds == "first" else f"ladders-{recipe.ladder_kinds}")
        order = _order(features, data, recipe, folder, device)
        member: Member | None = None
        for fold in range(recipe.folds):
            rows, held = np.flatnonzero(data.folds != fold), np.flatnonzero(data.folds == fold)
            run = work / name / f"fold{fold}"
            tuned = finetune(run, features, seen_by, order, data.mos, rows, recipe, device, SEED + fold, held, start)
            held_out[held] = tuned.predictions
            member = member or tuned.member
        if recipe.refit:
            rows, none = np.arange(len(data.files)), np.empty(0, np.int64)
            run = work / name / "all"
            member = finetune(run, features, seen_by, order, data.mos, rows, recipe, device, SEED, none).member
        assert member is not None  # a recipe has at least one fold
        trained = Trained(name, config, member, held_out, facts | {"recipe": asdict(recipe)})
    seen = np.isfinite(trained.held_out)
    values = measure(trained.held_out[seen], data.mos[seen])
    trained.facts["held_out"] = held_out_facts(values, int(seen.sum()))
    log.info("%s: held out PLCC %.4f SROCC %.4f on %d images", name, values["plcc"], values["srocc"], seen.sum())
    return trained


def held_out_facts(values: dict[str, float], images: int) -> dict[str, float]:
    """For bundle.json: what `measure` gave on so many held-out images."""
    return {key: round(value, 4) for key, value in values.items()} | {"images": images}


def _order(features: Features, data: Examples, recipe: Recipe, folder: Path, device: torch.device) -> Order | None:
    """Ladders of `recipe.ladders` training images, spread evenly over them."""
    if not recipe.ladders or not recipe.order_weight:
        return None
    rows = np.unique(np.linspace(0, len(data.files) - 1, min(recipe.ladders, len(data.files))).round().astype(np.int64))

    def views() -> Iterator[NDArray[np.uint8]]:
        return ladders(middle_views([data.files[row] for row in rows]), SEED, recipe.ladder_kinds)

    cache: Cache = cached(features, views, RUNGS * len(rows), folder, recipe.frozen_stages, device)
    return Order(rows, cache)
