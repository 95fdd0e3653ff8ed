"""Where the labels and images of each data set lie, as its authors' archive unpacks, and what they mean.

One function per set; `datasets.load` checks what they find.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metaqap_fast.errors import UsageError
from metaqap_fast.evaluation import add_label, read_labels


@dataclass(frozen=True, slots=True)
class Layout:
    """Labels of a set: MOS by image name, on a scale from `low` (worst) to `high` (best), in table order.

    `folder` is what the names are relative to. `reference` and `official` (train, validation or test) have an
    entry for each label. `unlabelled` are lower-case names of images that belong there without a label.
    """

    folder: Path
    labels: dict[str, float]
    low: float
    high: float
    reference: list[str] | None = None
    official: list[str] | None = None
    unlabelled: frozenset[str] = frozenset()


def table(path: Path, low: float, high: float) -> Layout:
    """A csv of image names, relative to it, and MOS; in a column `content`, if it has one, what an image shows."""
    return Layout(path.parent, read_labels(path), low, high, reference=column(path, "content"))


def column(path: Path, name: str) -> list[str] | None:
    """A further column of a csv that `read_labels` takes, an entry for each label; None without such a column."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        header = [cell.strip().lower() for cell in next(rows, [])]
        if name not in header:
            return None
        at = header.index(name)
        return [row[at].strip() if at < len(row) else "" for row in rows if any(cell.strip() for cell in row)]


def biq2021(root: Path) -> Layout:
    """Folder `Images` and one csv for each half of the official split; MOS 0..1."""
    labels: dict[str, float] = {}
    official: list[str] = []
    for part in ("train", "test"):
        table = _file(root / f"{part.capitalize()} (Images and MOS).csv", "BIQ2021's Images and csv files")
        rows = read_labels(table)
        if twice := labels.keys() & rows.keys():
            raise UsageError(f"{table}: {min(twice)!r} stands in the training split too")
        labels |= rows
        official += [part] * len(rows)
    return Layout(root / "Images", labels, 0, 1, official=official)


_KONIQ_PARTS = {"training": "train", "validation": "validation", "test": "test"}


def koniq10k(root: Path) -> Layout:
    """Folder `1024x768` (or `512x384`) and `koniq10k_distributions_sets.csv`; MOS 1..100.

    The authors' tables have a column MOS on two scales: 1..5 in `koniq10k_scores_and_distributions.csv`, the
    mean of the votes, and 1..100 in the table with the official split, which is the other's MOS_zscore. On
    the scale of 1..100 no MOS comes nearer to the mean of its votes than 2.8.
    """
    what = "KonIQ-10k's image folder and this table, which has the official split"
    table = _file(root / "koniq10k_distributions_sets.csv", what)
    labels = read_labels(table)
    votes = _columns(table, labels, "image_name", *(f"c{grade}" for grade in range(1, 6)))  # shares of the grades
    for row, (name, mos) in enumerate(labels.items()):
        try:
            opinion = sum(grade * float(shares[row]) for grade, shares in enumerate(votes, 1))
        except ValueError:
            raise UsageError(f"{table}: a share of the votes (c1..c5) for {name!r} is not a number") from None
        if abs(mos - opinion) < 1:
            raise UsageError(
                f"{table}: the MOS of {name!r}, {mos:g}, is on the scale of 1..5: this table has it on 1..100 "
                "(in koniq10k_scores_and_distributions.csv that is MOS_zscore)"
            )
    (sets,) = _columns(table, labels, "image_name", "set")
    for name, part in zip(labels, sets, strict=True):
        if part not in _KONIQ_PARTS:
            raise UsageError(f"{table}: the set of {name!r} is {part!r}, not one of {', '.join(_KONIQ_PARTS)}")
    folder = next((root / size for size in ("1024x768", "512x384") if (root / size).is_dir()), None)
    if folder is None:
        raise UsageError(f"{root} has neither a folder 1024x768 nor 512x384")
    return Layout(folder, labels, 1, 100, official=[_KONIQ_PARTS[part] for part in sets])


LIVE_TRAINING_ROWS = 7  # images that subjects were shown before the study; not in Images, not to be used


def live_challenge(root: Path) -> Layout:
    """`ChallengeDB_release` with `Images` and `Data`; MOS 0..100. The first 7 rows are training images."""
    root = _inside(root, "ChallengeDB_release")
    names = [str(np.ravel(cell)[0]) for cell in _mat(root, "AllImages_release") if np.size(cell)]
    scores = _mat(root, "AllMOS_release")
    if len(names) != len(scores) or len(names) <= LIVE_TRAINING_ROWS:
        raise UsageError(f"{root / 'Data'}: {len(names)} image names and {len(scores)} MOS")
    labels: dict[str, float] = {}
    for row in range(LIVE_TRAINING_ROWS, len(names)):
        add_label(labels, f"AllMOS_release row {row + 1}", names[row], scores[row])
    return Layout(root / "Images", labels, 0, 100)


def tid2013(root: Path) -> Layout:
    """`mos_with_names.txt` and `distorted_images`; MOS 0..9; `I01_05_3.bmp` is made from reference I01."""
    root = _inside(root, "tid2013")
    table = _file(root / "mos_with_names.txt", "TID2013's distorted_images and this table")
    labels: dict[str, float] = {}
    for number, line in enumerate(table.read_text(encoding="latin-1").splitlines(), 1):
        fields = line.split()
        if fields and len(fields) != 2:
            raise UsageError(f"{table} line {number}: no MOS and name in {line!r}")
        if fields:
            add_label(labels, f"{table} line {number}", fields[1], fields[0])
    reference = [name.partition("_")[0].lower() for name in labels]
    return Layout(root / "distorted_images", labels, 0, 9, reference)


def kadid10k(root: Path) -> Layout:
    """`dmos.csv` and `images`, which holds the references too; 1..5, higher better in spite of the name DMOS."""
    root = _inside(root, "kadid10k")
    table = _file(root / "dmos.csv", "KADID-10k's images and this table")
    labels = read_labels(table)
    (references,) = _columns(table, labels, "dist_img", "ref_img")
    reference = [name.lower() for name in references]
    return Layout(root / "images", labels, 1, 5, reference, unlabelled=frozenset(reference))


LAYOUTS: dict[str, Callable[[Path], Layout]] = {
    "biq2021": biq2021,
    "koniq10k": koniq10k,
    "live_challenge": live_challenge,
    "tid2013": tid2013,
    "kadid10k": kadid10k,
}


def _file(path: Path, what: str) -> Path:
    if not path.is_file():
        raise UsageError(f"{path} does not exist: give the folder that holds {what}")
    return path


def _inside(root: Path, folder: str) -> Path:
    """The folder that an archive unpacks, given it or the one that it was unpacked in."""
    return root / folder if (root / folder).is_dir() else root


def _columns(table: Path, labels: Iterable[str], key: str, *columns: str) -> list[list[str]]:
    """Further columns of a table that `read_labels` has read and checked, an entry for each label in each."""
    with open(table, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = {key, *columns} - set(reader.fieldnames or [])
        if missing:
            raise UsageError(f"{table} has no column {min(missing)!r}")
        rows = {row[key].strip(): row for row in reader if row[key]}
    return [[(rows[name][column] or "").strip() for name in labels] for column in columns]


def _mat(root: Path, variable: str) -> Any:
    """The entries of the one variable of a MATLAB file, [n]."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    path = _file(root / "Data" / f"{variable}.mat", "LIVE Challenge's Images and Data")
    try:
        return np.ravel(loadmat(path)[variable])
    except (KeyError, ValueError, NotImplementedError, MatReadError) as error:
        raise UsageError(f"{path} holds no variable {variable}: {error}") from None
