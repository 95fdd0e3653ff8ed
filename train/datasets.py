"""Labelled image sets by name, checked before anything is trained on them, and their splits.

    data = load("koniq10k", root)
    train, validation, test = split(data)

Names: biq2021, koniq10k, live_challenge, tid2013, kadid10k, and csv: a table of image names and MOS.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.errors import UsageError
from metaqap_fast.formats import EXTENSIONS
from metaqap_fast.streams import counted
from metaqap_fast.train.layouts import LAYOUTS, table

NAMES = (*LAYOUTS, "csv")
SEEDS = 10  # random splits of a set that has no official one; the median over them is reported
TEST_SHARE = 0.2

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DataSet:
    """All rows of a set, in the order of its label table.

    `mos` [n] is scaled to 0..1, higher better, from the declared scale of `low` (worst) to `high` (best).
    `reference` is the pristine image that a row was made from, None where rows are not made from any.
    `official` is train, validation or test for each row, None where the authors give no split.
    """

    name: str
    files: list[Path]
    keys: list[str]  # names in the label table
    mos: NDArray[np.float64]
    low: float
    high: float
    reference: list[str] | None = None
    official: list[str] | None = None


class Split(NamedTuple):
    """Row numbers of a DataSet's parts; `validation` is None where the authors give none."""

    train: Rows
    validation: Rows | None
    test: Rows


def load(name: str, root: str | os.PathLike[str], low: float | None = None, high: float | None = None) -> DataSet:
    """All rows of a data set.

    Args:
        name: one of NAMES.
        root: the folder that the authors' archive unpacks, or the one that it was unpacked in; the table
            itself for csv, whose image names are relative to it.
        low: MOS of the worst image that the scale of a csv allows; only there. Above `high` for a DMOS.
        high: MOS of the best one.

    Raises:
        UsageError: an unknown name, a file that is missing, an empty table, a row whose MOS is no number or
            outside its range, a duplicate, a label without an image, an image without a label.
    """
    path = Path(root)
    if name == "csv":
        if low is None or high is None or low == high:
            raise UsageError(f"{path}: a csv needs the two ends of its MOS scale, --low and --high")
        layout = table(path, low, high)
    elif name not in LAYOUTS:
        raise UsageError(f"unknown data set {name!r}: one of {', '.join(NAMES)}")
    elif low is not None or high is not None:
        raise UsageError(f"the MOS scale of {name} is known: --low and --high are for csv")
    else:
        layout = LAYOUTS[name](path)
    if not layout.labels:
        raise UsageError(f"{path}: the label table of {name} is empty")
    mos = check_mos(layout.labels, layout.low, layout.high)
    files = match_files(layout.folder, list(layout.labels), layout.unlabelled)
    keys = list(layout.labels)
    return DataSet(name, files, keys, mos, layout.low, layout.high, layout.reference, layout.official)


def split(data: DataSet, seed: int | None = None) -> Split:
    """The official split, where there is one; else 80/20 at random, by reference image where there are any.

    Args:
        data: the set.
        seed: of a random split, 0 if not given; a set with an official split takes none.

    Raises:
        UsageError: a seed for a set with an official split, or fewer than two images to split.
    """
    if data.official is not None:
        if seed is not None:
            raise UsageError(f"{data.name} has an official split, which takes no seed")
        part = np.array(data.official)
        train, validation, test = (np.flatnonzero(part == name) for name in ("train", "validation", "test"))
        return Split(train, validation if len(validation) else None, test)
    groups = np.arange(len(data.keys)) if data.reference is None else np.unique(data.reference, return_inverse=True)[1]
    count = int(groups.max()) + 1
    if count < 2:
        raise UsageError(f"{data.name}: {count} image cannot be split into training and test")
    order = np.random.default_rng(seed or 0).permutation(count)
    held = np.isin(groups, order[: max(1, round(TEST_SHARE * count))])
    return Split(np.flatnonzero(~held), None, np.flatnonzero(held))


def splits(data: DataSet) -> list[Split]:
    """What a figure is reported on: the official split, or the SEEDS random ones, whose median counts."""
    return [split(data)] if data.official is not None else [split(data, seed) for seed in range(SEEDS)]


def check_mos(labels: Mapping[str, float], low: float, high: float) -> NDArray[np.float64]:
    """MOS scaled from [low, high] to [0, 1].

    Raises:
        UsageError: a value outside its declared range; names the row.
    """
    for name, mos in labels.items():
        if not min(low, high) <= mos <= max(low, high):
            raise UsageError(f"the MOS of {name!r} is {mos:g}, outside {min(low, high):g}..{max(low, high):g}")
    return (np.fromiter(labels.values(), np.float64) - low) / (high - low)


def match_files(folder: Path, names: Sequence[str], unlabelled: Collection[str] = ()) -> list[Path]:
    """The image of each name, which is relative to `folder`, where the folders that hold them hold no others.

    The case of a name may differ where that fits one file (BIQ2021 lists one .jpg that is a .JPG).

    Args:
        folder: existing.
        names: without duplicates.
        unlabelled: lower-case names of images that may be there without being named.

    Raises:
        UsageError: names the labels that have no image, or share one, and the images that have no label.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    listings: dict[Path, dict[str, list[str]]] = {}  # folder -> lower-case name -> names
    owner: dict[Path, str] = {}
    missing = []
    for name in names:
        path = folder / name
        if path.parent not in listings:
            listings[path.parent] = _listing(path.parent)
        alike = listings[path.parent].get(path.name.lower(), [])
        found = path.name if path.name in alike else alike[0] if len(alike) == 1 else None
        if found is None:
            missing.append(name)
            continue
        image = path.with_name(found)
        if image in owner:
            raise UsageError(f"the labels {owner[image]!r} and {name!r} are of one image, {image}")
        owner[image] = name
    if missing:
        raise UsageError(f"{counted(len(missing), 'label')} without an image in {folder}: {_some(missing)}")
    images = [
        parent / name
        for parent, listing in listings.items()
        for alike in listing.values()
        for name in alike
        if os.path.splitext(os.fsencode(name))[1].lower() in EXTENSIONS and name.lower() not in unlabelled
    ]
    if extra := [str(path.relative_to(folder)) for path in images if path not in owner]:
        raise UsageError(f"{counted(len(extra), 'image')} without a label in {folder}: {_some(sorted(extra))}")
    return list(owner)


def _listing(folder: Path) -> dict[str, list[str]]:
    listing: dict[str, list[str]] = {}
    try:
        with os.scandir(folder) as scan:
            for entry in scan:
                if entry.is_file():
                    listing.setdefault(entry.name.lower(), []).append(entry.name)
    except OSError:
        return {}  # its labels have no image
    return listing


def _some(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """One split of a data set: files [n], their names in the label table, MOS [n] scaled to 0..1."""

    name: str
    files: list[Path]
    labels: list[str]
    mos: NDArray[np.float64]


def biq2021(root: Path, part: str) -> LabelledSet:
    """BIQ2021's official split, `train` (10,000) or `test` (2,000).

    Raises:
        UsageError: as `load`.
    """
    data = load("biq2021", root)
    rows = {"train": split(data).train, "test": split(data).test}[part]
    return LabelledSet("BIQ2021", [data.files[i] for i in rows], [data.keys[i] for i in rows], data.mos[rows])
