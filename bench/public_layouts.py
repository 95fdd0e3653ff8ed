"""Where public repositories keep rated pictures, and what people said of them: a function for each set."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
PENALTY = 0.05  # of squared log strengths: two pictures were never chosen
SCREEN = 2160  # lines of the screen that stills were shown on


@dataclass(frozen=True, slots=True)
class Picture:
    """One of a set: its file, what was said of it, what it shows, and the part of the set that it is in.

    `lines` are those that it is enlarged to; 0 for none.
    """

    file: Path
    mos: float
    content: str = ""
    group: str = ""
    lines: int = 0


def _table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def underwater(root: Path) -> Iterator[Picture]:
    """Per cent of the comparisons that a photograph won."""
    from openpyxl import load_workbook

    files = {"".join(filter(str.isdigit, file.stem)): file for file in root.glob("300-*/*.jpg")}
    for number, mos in load_workbook(root / "MOS.xlsx", read_only=True).active.iter_rows(min_row=2, values_only=True):
        if number is not None:
            yield Picture(files.get(str(number), root / f"{number}.jpg"), float(mos))


def rated_beside(root: Path) -> Iterator[Picture]:
    """Photographs and generated pictures; the group is where they come from."""
    for row in _table(root / "evaluation_quality_appeal/quality.csv"):
        file = root / "images" / f"{row['image_key']}.png"
        yield Picture(file, float(row["rating"]), row["prompt"], row["image_key"].split("/")[0])


def photographs(root: Path) -> Iterator[Picture]:
    """Photographs alone."""
    return (Picture(each.file, each.mos) for each in rated_beside(root) if each.group == "own")


def generated(root: Path) -> Iterator[Picture]:
    """Generated pictures alone."""
    return (each for each in rated_beside(root) if each.group != "own")


def stills(root: Path) -> Iterator[Picture]:
    """Frames of films, to be enlarged to the screen that they were shown on."""
    for row in _table(root / "test_1/mos_ci.csv"):
        name = row["image_name"]
        lines = int(name.rsplit("_height_", 1)[1])
        group = "under 300 lines" if lines < 300 else "300 to 599 lines" if lines < 600 else "600 lines and more"
        file = root / "test_1/images" / f"{name}.png"
        yield Picture(file, float(row["mos"]), name.split("_1frame_")[0], group, SCREEN)


def under_jpeg(root: Path) -> Iterator[Picture]:
    """Originals and two qualities, by a table that somebody has to write."""
    table = root / "mos.csv"
    if not table.exists():
        print(
            f"the opinions of {root.name} are a picture, mos-table.png: write {table} with name, original, imp1, imp2"
        )
        return
    folders = {"original": "Original images", "imp1": "Compressed images/imp1", "imp2": "Compressed images/imp2"}
    for row in _table(table):
        for column, folder in folders.items():
            found = sorted((root / folder).glob(f"{row['name']}.*"))
            yield Picture(found[0] if found else root / folder / row["name"], float(row[column]), row["name"])


def learned(root: Path) -> Iterator[Picture]:
    """The share of all pictures that a picture is preferred to."""
    files = {file.stem: file for file in sorted((root / "images").rglob("*.png"))}

    def name(row: dict[str, str], side: str) -> str:
        parts = (row[f"Image_{side}"].zfill(5), row[f"Model_{side}"], row[f"Quality_{side}"])
        return "_".join(part for part in parts if part)

    won: dict[tuple[str, str], int] = {}
    for row in _table(root / "results/jdg.csv"):
        pair = name(row, "A"), name(row, "B")
        for rater, choice in row.items():
            if rater.isdigit() and choice in ("0", "1"):
                winner = pair if choice == "0" else pair[::-1]
                won[winner] = won.get(winner, 0) + 1
    names = sorted({one for pair in won for one in pair})
    strength = bradley_terry(names, won)
    preferred = (1 / (1 + np.exp(strength[None] - strength[:, None]))).mean(1)
    for one, share in zip(names, preferred, strict=True):
        yield Picture(files.get(one, root / "images" / f"{one}.png"), float(share), one.split("_")[0])


def bradley_terry(names: Sequence[str], won: dict[tuple[str, str], int]) -> F64:
    """Log strengths [n] by how often the first of a pair was chosen, with a penalty of PENALTY times their squares."""
    from scipy.optimize import minimize

    place = {name: i for i, name in enumerate(names)}
    first, second = (np.array([place[pair[side]] for pair in won]) for side in (0, 1))
    times = np.array(list(won.values()), np.float64)

    def loss(strength: F64) -> tuple[float, F64]:
        ahead = strength[first] - strength[second]
        slope = -times / (1 + np.exp(ahead))
        gradient = 2 * PENALTY * strength
        np.add.at(gradient, first, slope)
        np.add.at(gradient, second, -slope)
        return float(times @ np.logaddexp(0, -ahead) + PENALTY * strength @ strength), gradient

    found: F64 = minimize(loss, np.zeros(len(names)), jac=True, method="L-BFGS-B").x
    return found


def upscaled(root: Path) -> Iterator[Picture]:
    """Enlarged photographs; the content is the folder, the group the factor."""
    with open(root / "MOS.csv", newline="", encoding="utf-8-sig") as table:
        opinions = {row[0].strip(): float(row[2]) for row in csv.reader(table) if len(row) > 2 and row[0].strip()}
    files = {file.name: file for file in root.glob("*/*") if file.parent.name != "reference"}
    for name, mos in opinions.items():
        file = files.get(name, root / name)
        factor = re.search(r"x(\d)", name)
        yield Picture(file, mos, file.parent.name, f"enlarged {factor[1]} times" if factor else "")


def web_pages(root: Path) -> Iterator[Picture]:
    """Full-size screenshots."""
    inside = root / "rating-based-dataset"
    for table in ("train_means_list.csv", "test_list.csv"):
        for row in _table(inside / "preprocess" / table):
            name = row["image"].lstrip("/").replace("_resized", "")
            yield Picture(inside / "images" / name, float(row["mean_score"]))


def scans(root: Path) -> Iterator[Picture]:
    """The first sample of each type and series, by how sure Tesseract is of its words, weighted by their characters."""
    seen = set()
    for file in sorted((root / "dataset").glob("*_*/CSV/*.csv")):
        series, kind = file.stem.rsplit("_", 2)[0], file.stem.rsplit("_", 1)[0]
        if series == "0_0" or kind in seen:
            continue
        seen.add(kind)
        with open(file, encoding="utf-8", errors="replace") as lines:
            words = [line.rsplit('"', 1)[-1].split(";") for line in lines if ";" in line]
        sure = np.array([[float(word[12]), float(word[13])] for word in words if len(word) > 13])
        picture = file.parents[1] / "IMA" / f"{file.stem}.jpg"
        yield Picture(picture, round(float(sure[:, 0] @ sure[:, 1] / sure[:, 1].sum()), 5))


def views(root: Path) -> Iterator[Picture]:
    """Views computed from depth, and originals."""
    from scipy.io import loadmat

    files = {file.name: file for folder in ("Synthesized", "Original") for file in (root / "data" / folder).glob("*")}
    for name, mos in loadmat(root / "MOS.mat")["IRCCyNIVCDIBRImagesDatabaseACRScore"]:
        yield Picture(files.get(str(name[0]), root / str(name[0])), float(mos[0][0]))
