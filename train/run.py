"""One command from a labelled data set to a bundle: split, members, meta-learner, export."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metaqap_fast.errors import UsageError
from metaqap_fast.train.build import write_bundle
from metaqap_fast.train.datasets import DataSet, Split, load, split
from metaqap_fast.train.members import Examples, examples, member_name, train_member
from metaqap_fast.train.networks import read_config
from metaqap_fast.train.recipe import BUDGETS, recipe_for

log = logging.getLogger(__name__)

DEFAULT_NETWORKS = ("mobilenetv2", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


def find_device(wanted: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N`; auto is the GPU where there is one.

    Raises:
        UsageError: a GPU that is not there.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise UsageError(f"unknown device {wanted!r}: auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"{wanted}: {torch.cuda.device_count()} CUDA devices are there")
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"cannot train on {wanted!r}: auto, cpu, cuda or cuda:N")
    return device


def folder_for(output: Path) -> None:
    """Make the folder that is written to at the end, hours later.

    Raises:
        UsageError: it cannot be one.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{output}: {error.strerror}: -o is a folder that is there or can be made") from None


def prepare(
    name: str, root: Path, work: Path, seed: int | None = None, low: float | None = None, high: float | None = None
) -> tuple[DataSet, Split, Examples]:
    """Load and check a set, split it, deal its training images to folds; keep the test rows' names for `evaluate`.

    Writes `test.txt`, the test images' paths for `metaqap-fast score @test.txt`, and `test.csv`, their MOS. The folds
    are kept in `folds.npy`. A validation part, where the authors give one, is trained on too: what is chosen here is
    chosen by folds.
    """
    data = load(name, root, low, high)
    parts = split(data, seed)
    rows = parts.train if parts.validation is None else np.sort(np.concatenate([parts.train, parts.validation]))
    work.mkdir(parents=True, exist_ok=True)
    (work / "test.txt").write_text("".join(f"{data.files[i].resolve()}\n" for i in parts.test))
    with open(work / "test.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "mos"), *((data.files[i].name, data.mos[i]) for i in parts.test)])
    files = [data.files[i] for i in rows]
    reference = [data.reference[i] for i in rows] if data.reference is not None else None
    kept = work / "folds.npz"
    if kept.exists():
        stored = np.load(kept, allow_pickle=False)
        if not np.array_equal(stored["mos"], data.mos[rows]):
            raise UsageError(
                f"{kept} is of other images, or of these with other opinions, --low or --high: give another --work, or "
                "remove it"
            )
        return data, parts, Examples(files, data.mos[rows], stored["folds"], int(stored["twins"]))
    dealt = examples(files, data.mos[rows], reference)
    np.savez(kept, folds=dealt.folds, twins=dealt.twins, mos=dealt.mos)
    return data, parts, dealt


def run(
    name: str,
    root: Path,
    out: Path,
    work: Path,
    networks: Sequence[str],
    budget: str = "auto",
    device: str = "auto",
    seed: int | None = None,
    low: float | None = None,
    high: float | None = None,
    bundle_name: str | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Train members on a data set and write their bundle; returns its `bundle.json`.

    Args:
        name: data set, see `datasets.load`, as are root, low and high.
        root: where it is.
        out: the bundle's folder.
        work: folder for caches and runs; a second call goes on from it.
        networks: members to offer to the meta-learner, see `members.member_name`.
        budget: see `recipe.BUDGETS`; auto is gpu where there is one, else cpu.
        device: see `find_device`.
        seed: of a random split, for sets without an official one.
        low: see `datasets.load`.
        high: see `datasets.load`.
        bundle_name: the data set's and the budget's if not given.
        changes: entries of the recipe that replace the configurations'.
    """
    where = find_device(device)
    if budget == "auto":
        budget = "gpu" if where.type == "cuda" else "cpu"
    recipes = [recipe_for(read_config(member_name(wanted)[0]), budget, **changes) for wanted in networks]
    log.info("device %s, budget %s: %s", where, budget, BUDGETS[budget])
    data, parts, dealt = prepare(name, root, work, seed, low, high)
    folder_for(out)
    log.info("%s: %d training images, %d test images set aside", data.name, len(dealt.files), len(parts.test))
    members = [
        train_member(wanted, dealt, recipe, work, where) for wanted, recipe in zip(networks, recipes, strict=True)
    ]
    training: dict[str, Any] = {"data": data.name, "mos_range": [data.low, data.high], "budget": budget}
    if data.official is None:
        training["split_seed"] = seed or 0
    bundle_name = bundle_name or f"{data.name}-{budget}"
    card = (
        f"# Model card: {bundle_name}\n\nTrained on {data.name}; see bundle.json. Not evaluated on a test split yet.\n"
    )
    document = write_bundle(out, bundle_name, members, dealt, training, card)
    log.info("written to %s; test it: metaqap-fast score @%s --model %s", out, work / "test.txt", out)
    return document
