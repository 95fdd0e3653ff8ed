"""What each part of the method brings, in one table: the rows of the paper's ablation.

    metaqap-fast train ablation ROOT --data biq2021 -o ablation/ --pretraining pretrained/mobilenetv2

Every row is judged on the training split's held-out images. With `--test` each is then scored once on the test split,
through the modules that a bundle would store. Nothing here chooses anything.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.evaluation import measure
from metaqap_fast.train.build import combine_members, common
from metaqap_fast.train.features import predict_files
from metaqap_fast.train.members import Examples, Trained, member_name, train_member
from metaqap_fast.train.meta import held_out
from metaqap_fast.train.networks import read_config
from metaqap_fast.train.recipe import LOSSES, Recipe, recipe_for
from metaqap_fast.train.run import find_device, prepare

log = logging.getLogger(__name__)

F64 = NDArray[np.float64]


def ablation(
    data: str,
    root: Path,
    output: Path,
    work: Path,
    network: str,
    networks: Sequence[str],
    pretraining: Path | None,
    device: str,
    test: bool,
    changes: dict[str, Any],
    seed: int | None = None,
    low: float | None = None,
    high: float | None = None,
) -> str:
    """Train what is not trained yet, and write `ablation.md` and `ablation.json`; returns the table.

    Args:
        data: data set, see `datasets.load`.
        root: where it is.
        output: folder of the table.
        work: folder of caches and runs; members that `train run` left there are read back.
        network: the one that pretraining and losses are compared on, with `changes` to its recipe.
        networks: members of the ensemble rows, as `train run` trained them.
        pretraining: run of the network's pretraining; without it the row is left out.
        device: see `run.find_device`.
        test: score the test split too.
        changes: entries of the recipe of the single-network rows.
        seed: of a random split, for sets without an official one.
        low: see `datasets.load`.
        high: see `datasets.load`.
    """
    where = find_device(device)
    budget = "gpu" if where.type == "cuda" else "cpu"
    whole, parts, dealt = prepare(data, root, work, seed, low, high)
    tags, wanted, recipes = zip(*_singles(network, pretraining, budget, changes), strict=True)
    singles = [
        train_member(member, dealt, recipe, work / "ablation" / tag, where, cache=work)
        for tag, member, recipe in zip(tags, wanted, recipes, strict=True)
    ]
    members = [
        train_member(member, dealt, recipe_for(read_config(member_name(member)[0]), budget), work, where)
        for member in networks
    ]
    files, mos = [whole.files[i] for i in parts.test], whole.mos[parts.test]

    def tested(member: Trained) -> F64 | None:
        return predict_files(member.member, files, where) if test else None

    rows = [
        _row(f"{network}, {tag}", single.held_out, dealt.mos, tested(single), mos)
        for tag, single in zip(tags, singles, strict=True)
    ]
    rows += _ensembles(members, dealt, [tested(member) for member in members], mos)
    table = _table(rows)
    output.mkdir(parents=True, exist_ok=True)
    (output / "ablation.md").write_text(table)
    (output / "ablation.json").write_text(json.dumps({"data": data, "rows": rows}, indent=2) + "\n")
    return table


def _singles(
    network: str, pretraining: Path | None, budget: str, changes: dict[str, Any]
) -> list[tuple[str, str, Recipe | None]]:
    """(tag, member, recipe) of each row of one network."""
    config = read_config(network)

    def recipe(**own: Any) -> Recipe | None:
        return recipe_for(config, budget, **changes | {"refit": False, **own})

    rows: list[tuple[str, str, Recipe | None]] = [("frozen", network, None), (LOSSES[0], network, recipe())]
    rows.append(("without ladders", network, recipe(ladders=0)))
    rows += [(loss, network, recipe(loss=loss)) for loss in LOSSES[1:]]
    if pretraining:
        pretrained = f"{network}@{pretraining}"
        rows.append(("pretrained and frozen", pretrained, None))
        rows.append(("pretrained, quality-aware", pretrained, recipe()))
    return rows


def _ensembles(
    members: Sequence[Trained], data: Examples, tested: Sequence[F64 | None], mos: F64
) -> list[dict[str, Any]]:
    """Single best member, plain average and meta-learner; members are judged on the images that all held out."""
    learner, _ = combine_members(members, data)
    predictions, judged, folds = common(members, data)
    kept = np.flatnonzero(learner.weights)
    best = max(range(len(members)), key=lambda m: measure(predictions[:, m], judged)["plcc"])
    there = [prediction for prediction in tested if prediction is not None]
    test = np.stack(there, 1) if there else None
    rows = []
    for m, member in enumerate(members):
        name = f"{'single best member' if m == best else 'member'}: {member.name}"
        rows.append(_row(name, predictions[:, m], judged, tested[m], mos))
    average = None if test is None else test.mean(1)
    rows.append(_row("plain average", predictions.mean(1), judged, average, mos))
    combined = None if test is None else test @ learner.weights + learner.intercept
    rows.append(_row("meta-learner (full)", held_out(predictions[:, kept], judged, folds), judged, combined, mos))
    return rows


def _row(name: str, held: F64, held_mos: F64, test: F64 | None, mos: F64) -> dict[str, Any]:
    """Metrics of held-out predictions (NaN where there is none), and of the test split's if they are given."""
    seen = np.isfinite(held)
    row: dict[str, Any] = {"name": name, "images": int(seen.sum()), "held_out": _short(held[seen], held_mos[seen])}
    if test is not None:
        row["test"] = _short(test, mos)
    log.info("%s", row)
    return row


def _short(x: F64, y: F64) -> dict[str, float]:
    values = measure(x, y)
    return {name: round(values[name], 4) for name in ("plcc", "srocc", "krocc", "rmse")}


def _table(rows: Sequence[dict[str, Any]]) -> str:
    tested = all("test" in row for row in rows)
    head = "| | held-out images | PLCC | SROCC |" + (" test PLCC | test SROCC |" if tested else "")
    lines = [head, "|---" * (head.count("|") - 1) + "|"]
    for row in rows:
        cells = [row["name"], f"{row['images']:,}", *(f"{row['held_out'][name]:.4f}" for name in ("plcc", "srocc"))]
        cells += [f"{row['test'][name]:.4f}" for name in ("plcc", "srocc")] if tested else []
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
