"""How a member is fine-tuned, and what a smaller budget does less of."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from metaqap_fast.errors import UsageError
from metaqap_fast.train.ladders import KINDS
from metaqap_fast.train.networks import Config

BUDGETS = {
    "frozen": "no training: ridge heads on frozen networks, out-of-fold predictions for every image in closed form",
    "cpu": "later stages trained on the cached output of the first; one fold held out, its model is the member",
    "gpu": "every stage trained; a model for each fold, then one on all images, which is the member",
}
LOSSES = ("quality-aware", "mse", "softmax-pearson", "soft-spearman")
FOLDS = 5


@dataclass(frozen=True, slots=True)
class Recipe:
    """Fine-tuning of one member after its linear probe.

    `frozen_stages` counts stages from the image; the rest are trained, each with `layer_decay` times the rate
    of the one above it. `l1` and `l2` weigh squared error and softmax correlation in the quality-aware loss.
    `folds` is how many of the FOLDS models for out-of-fold predictions are trained. `refit` trains the member once more
    on all rows; without it the first fold's model is the member, which a fifth of the rows never reached. No epochs at
    all leave the frozen network with its ridge head, as the budget `frozen` does. `probe_penalty`
    is stronger than a ridge head's own best, so that the training images leave something to learn. `ladders` training
    images are also seen distorted, by the eight `first` kinds or by `all`; `order_batch` of them are in a step, and the
    loss of their order weighs `order_weight`.
    """

    epochs: float = 4.0
    batch: int = 32
    lr: float = 2e-4
    head_lr: float = 1e-4
    layer_decay: float = 0.95
    weight_decay: float = 0.05
    frozen_stages: int = 0
    dropout: float = 0.2
    ema: float = 0.99
    probe_penalty: float = 5.0
    loss: str = "quality-aware"
    l1: float = 0.5
    l2: float = 0.5
    flip: bool = True
    ladders: int = 1000
    ladder_kinds: str = "first"
    order_batch: int = 4
    order_weight: float = 0.2
    folds: int = FOLDS
    refit: bool = True


def recipe_for(config: Config, budget: str, **changes: Any) -> Recipe | None:
    """The recipe of a network's configuration within a budget; None for a frozen network.

    A configuration's `[recipe]` is for a GPU; its `[recipe.cpu]` says what differs on a CPU, and its `[recipe.damage]`
    what does where a member goes on and learns damage (`teach`).

    Raises:
        UsageError: an unknown budget, an unknown entry, or one out of range.
    """
    if budget not in BUDGETS:
        raise UsageError(f"unknown budget {budget!r}: one of {', '.join(BUDGETS)}")
    if budget == "frozen":
        return None
    entries = dict(config.recipe)
    reduced = entries.pop("cpu", {})
    entries.pop("damage", None)
    if budget == "cpu":
        entries |= {"folds": 1, "refit": False, **reduced}
    entries |= {name: value for name, value in changes.items() if value is not None}
    known = {field.name: field.type for field in fields(Recipe)}
    for name in entries:
        if name not in known:
            raise UsageError(f"{config.name}: the recipe has no entry {name!r}; it has {', '.join(known)}")
    try:
        recipe = replace(Recipe(), **entries)
        _check(recipe)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{config.name}: recipe: {error}") from None
    return recipe if recipe.epochs else None


def _check(recipe: Recipe) -> None:
    if recipe.loss not in LOSSES:
        raise ValueError(f"loss is {recipe.loss!r}, not one of {', '.join(LOSSES)}")
    if not 1 <= recipe.folds <= FOLDS or recipe.frozen_stages < 0 or recipe.batch < 2 or recipe.epochs < 0:
        raise ValueError(f"folds is 1 to {FOLDS}, batch at least 2, epochs and frozen_stages at least 0")
    if not 0 <= recipe.dropout < 1 or not 0 <= recipe.ema < 1 or not 0 < recipe.layer_decay <= 1:
        raise ValueError("dropout and ema are 0 to below 1, layer_decay above 0 to 1")
    if recipe.ladder_kinds not in KINDS:
        raise ValueError(f"ladder_kinds is {recipe.ladder_kinds!r}, not one of {', '.join(KINDS)}")
    if recipe.ladders < 0 or recipe.order_batch < 1 or recipe.order_weight < 0:
        raise ValueError("ladders and order_weight are at least 0, order_batch at least 1")
