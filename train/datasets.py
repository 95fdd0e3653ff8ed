"""Labelled image sets as lists of (file, MOS), checked before anything is trained on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.errors import UsageError
from metaqap_fast.evaluate import read_labels


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """One split of a data set: files [n], their names in the label table, MOS [n] scaled to 0..1."""

    name: str
    files: list[Path]
    labels: list[str]
    mos: NDArray[np.float64]


def biq2021(root: Path, split: str) -> LabelledSet:
    """BIQ2021's official split, `train` (10,000) or `test` (2,000); MOS is 0..1 as published.

    `root` holds `Images` and the two csv files as the authors' repository lays them out.

    Raises:
        UsageError: a file that is missing, a label without an image, a MOS outside 0..1.
    """
    table = root / f"{split.capitalize()} (Images and MOS).csv"
    if split not in ("train", "test") or not table.exists():
        raise UsageError(f"{table} does not exist: give the folder that holds BIQ2021's Images and csv files")
    labels = read_labels(table)
    files = match_files(root / "Images", list(labels))
    return LabelledSet("BIQ2021", files, list(labels), check_mos(labels, 0.0, 1.0))


def match_files(folder: Path, names: Sequence[str]) -> list[Path]:
    """The file of each label; the case of the name may differ (BIQ2021 lists one .jpg that is a .JPG).

    Raises:
        UsageError: names the labels that have no file.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    found = {path.name.lower(): path for path in folder.iterdir()}
    missing = [name for name in names if name.lower() not in found]
    if missing:
        raise UsageError(f"{len(missing)} labels have no image in {folder}: {', '.join(missing[:3])}")
    return [found[name.lower()] for name in names]


def check_mos(labels: Mapping[str, float], low: float, high: float) -> NDArray[np.float64]:
    """MOS scaled from [low, high] to [0, 1].

    Raises:
        UsageError: a value outside its declared range; names the row.
    """
    for name, mos in labels.items():
        if not low <= mos <= high:
            raise UsageError(f"the MOS of {name!r} is {mos}, outside {low}..{high}")
    return (np.fromiter(labels.values(), np.float64) - low) / (high - low)
