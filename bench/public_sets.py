"""The table of rated sets that `bench accuracy --sets` reads, made from checkouts of public repositories.

    python -m metaqap_fast.bench.public_sets CHECKOUTS/ -o sets/
    metaqap-fast bench accuracy --sets sets/sets.toml --precisions fp32 -o accuracy/

CHECKOUTS/ has a folder for each repository, under the repository's own name. One that is not there is left out, and so
is a picture that a checkout lacks; both are said. Pictures are linked, except for those that have to be scaled first.

Of two sets the contents are divided: a third, by the digests of their names, is for choosing between models, and
the others for the final measurement alone.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from metaqap_fast.errors import UsageError
from metaqap_fast.streams import counted

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


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a set is read from its checkout, and what its entry in the table says.

    Attributes:
        name: of the set.
        repository: owner and name.
        family: one of `train.sets.FAMILIES`.
        licence: what the authors say of terms.
        recipe: how its images were made and rated.
        ends: opinion on the worst and on the best image that the scale allows.
        pictures: reads a checkout.
        opinions: one of `train.sets.OPINIONS`.
        divided: a third of its contents are for choosing.
    """

    name: str
    repository: str
    family: str
    licence: str
    recipe: str
    ends: tuple[float, float]
    pictures: Callable[[Path], Iterator[Picture]]
    opinions: str = "scale"
    divided: bool = field(default=False)


def main() -> None:
    """Write the table and a folder for each set; say what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", type=Path, help="folder of the checkouts, each under its repository's own name")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for sets.toml and the sets")
    options = parser.parse_args()
    try:
        build(options.checkouts, options.output)
    except UsageError as error:
        parser.error(str(error))


def build(checkouts: Path, output: Path, recipes: Sequence[Recipe] | None = None) -> Path:
    """Write `sets.toml` and what it refers to; returns its path.

    Args:
        checkouts: folder of the checkouts.
        output: folder, which is made.
        recipes: RECIPES if None.

    Raises:
        UsageError: there is none of the repositories.
    """
    entries = []
    for recipe in RECIPES if recipes is None else recipes:
        root = checkouts / recipe.repository.split("/")[1]
        if not root.is_dir():
            print(f"{recipe.name}: left out, there is no {root}: git clone https://github.com/{recipe.repository}")
            continue
        every = list(recipe.pictures(root))
        there = [picture for picture in every if picture.file.is_file()]
        missing = len(every) - len(there)
        print(f"{recipe.name}: {counted(len(there), 'picture')}" + (f", {missing} not in the checkout" * bool(missing)))
        entries += [_write(recipe, part, chosen, root, output) for part, chosen in _parts(recipe, there)]
    if not entries:
        raise UsageError(f"{checkouts} has a checkout of none of these repositories")
    table = output / "sets.toml"
    table.write_text("\n".join(entries), encoding="utf-8")
    return table


def for_choosing(content: str) -> bool:
    """Whether a content of a divided set is in the third that models are chosen by."""
    return hashlib.sha256(content.encode()).digest()[0] % 3 == 0


def _parts(recipe: Recipe, pictures: list[Picture]) -> Iterator[tuple[str, list[Picture]]]:
    """The parts that have pictures."""
    chosen = [picture for picture in pictures if recipe.divided and for_choosing(picture.content)]
    others = [picture for picture in pictures if not (recipe.divided and for_choosing(picture.content))]
    yield from ((part, some) for part, some in (("untouched", others), ("validation", chosen)) if some)


def _write(recipe: Recipe, part: str, pictures: list[Picture], root: Path, output: Path) -> str:
    """The folder of one set; returns its entry in the table."""
    name = recipe.name if part == "untouched" else f"{recipe.name}, {part}"
    folder = output / name.replace(" ", "-").replace(",", "")
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for picture in pictures:
        inside = picture.file.relative_to(root)
        target = folder / (inside.with_suffix(".png") if picture.lines else inside)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            _place(picture, target)
        rows.append([str(target.relative_to(folder)), repr(picture.mos), picture.content, picture.group])
    columns = ["image_name", "mos", "content", "group"]
    used = [True, True, any(row[2] for row in rows), any(row[3] for row in rows)]
    with open(folder / "mos.csv", "w", newline="", encoding="utf-8") as out:
        for row in (columns, *rows):
            csv.writer(out).writerow([value for value, use in zip(row, used, strict=True) if use])
    low, high = recipe.ends
    values: dict[str, str | float] = {
        "name": name,
        "family": recipe.family,
        "part": part,
        "data": "csv",
        "root": f"{folder.name}/mos.csv",
        "low": low,
        "high": high,
        "opinions": recipe.opinions,
        "licence": recipe.licence,
        "recipe": recipe.recipe,
    }
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join(["[[set]]", *lines, ""])


def _place(picture: Picture, target: Path) -> None:
    """A link to a picture, or the picture enlarged."""
    if not picture.lines:
        target.symlink_to(picture.file.resolve())
        return
    pixels = cv2.imdecode(np.fromfile(picture.file, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None, picture.file
    width = round(pixels.shape[1] * picture.lines / pixels.shape[0])
    scaled = cv2.resize(pixels, (width, picture.lines), interpolation=cv2.INTER_CUBIC)
    unfinished = target.with_suffix(".partial")
    cv2.imencode(".png", scaled, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tofile(unfinished)
    unfinished.rename(target)


def _table(path: Path, encoding: str = "utf-8-sig") -> list[dict[str, str]]:
    with open(path, newline="", encoding=encoding) as file:
        return list(csv.DictReader(file))


def _underwater(root: Path) -> Iterator[Picture]:
    from openpyxl import load_workbook

    files = {"".join(filter(str.isdigit, file.stem)): file for file in root.glob("300-*/*.jpg")}
    for number, mos in load_workbook(root / "MOS.xlsx", read_only=True).active.iter_rows(min_row=2, values_only=True):
        if number is not None:
            yield Picture(files.get(str(number), root / f"{number}.jpg"), float(mos))


def _rated_beside(root: Path) -> Iterator[Picture]:
    for row in _table(root / "evaluation_quality_appeal/quality.csv"):
        file = root / "images" / f"{row['image_key']}.png"
        yield Picture(file, float(row["rating"]), row["prompt"], row["image_key"].split("/")[0])


def _photographs(root: Path) -> Iterator[Picture]:
    return (Picture(each.file, each.mos) for each in _rated_beside(root) if each.group == "own")


def _generated(root: Path) -> Iterator[Picture]:
    return (each for each in _rated_beside(root) if each.group != "own")


def _stills(root: Path) -> Iterator[Picture]:
    for row in _table(root / "test_1/mos_ci.csv"):
        name = row["image_name"]
        lines = int(name.rsplit("_height_", 1)[1])
        group = "under 300 lines" if lines < 300 else "300 to 599 lines" if lines < 600 else "600 lines and more"
        file = root / "test_1/images" / f"{name}.png"
        yield Picture(file, float(row["mos"]), name.split("_1frame_")[0], group, SCREEN)


def _under_jpeg(root: Path) -> Iterator[Picture]:
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


def _learned(root: Path) -> Iterator[Picture]:
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


def _upscaled(root: Path) -> Iterator[Picture]:
    with open(root / "MOS.csv", newline="", encoding="utf-8-sig") as table:
        opinions = {row[0].strip(): float(row[2]) for row in csv.reader(table) if len(row) > 2 and row[0].strip()}
    files = {file.name: file for file in root.glob("*/*") if file.parent.name != "reference"}
    for name, mos in opinions.items():
        file = files.get(name, root / name)
        factor = re.search(r"x(\d)", name)
        yield Picture(file, mos, file.parent.name, f"enlarged {factor[1]} times" if factor else "")


def _web_pages(root: Path) -> Iterator[Picture]:
    inside = root / "rating-based-dataset"
    for table in ("train_means_list.csv", "test_list.csv"):
        for row in _table(inside / "preprocess" / table):
            name = row["image"].lstrip("/").replace("_resized", "")
            yield Picture(inside / "images" / name, float(row["mean_score"]))


def _scans(root: Path) -> Iterator[Picture]:
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


def _views(root: Path) -> Iterator[Picture]:
    from scipy.io import loadmat

    files = {file.name: file for folder in ("Synthesized", "Original") for file in (root / "data" / folder).glob("*")}
    for name, mos in loadmat(root / "MOS.mat")["IRCCyNIVCDIBRImagesDatabaseACRScore"]:
        yield Picture(files.get(str(name[0]), root / str(name[0])), float(mos[0][0]))


ILMENAU = "Telecommunication-Telemedia-Assessment"
RECIPES = (
    Recipe(
        "underwater", "JOU-UIP/PCUID", "authentic photographs", "none stated",
        "underwater photographs; per cent of the comparisons that a photograph won", (0, 100), _underwater, "pairs",
    ),
    Recipe(
        "rated beside generated pictures", f"{ILMENAU}/avt_ai_images", "authentic photographs", "GPL-3.0",
        "photographs, rated for quality", (1, 5), _photographs,
    ),
    Recipe(
        "stills", f"{ILMENAU}/image_quality_test", "compression", "GPL-3.0",
        "square frames of films, HEVC intra at several sizes and qualities, shown on a screen of 2,160 lines", (1, 5),
        _stills, divided=True,
    ),
    Recipe(
        "photographs under JPEG", "Amatofrancesco99/Image-compression-and-subjective-quality-assessment", "compression",
        "MIT", "photographs, and the same at JPEG quality 10 and 4", (1, 5), _under_jpeg,
    ),
    Recipe(
        "learned codecs and restoration", "martafilipa/gan-image-database", "compression", "none stated",
        "learned codecs and removal of JPEG artifacts; the share of all pictures that a picture is preferred to, by "
        "Bradley and Terry's model", (0, 1), _learned, "pairs",
    ),
    Recipe(
        "upscaled", "mb21100/SR4KIQA", "scaling", "none stated",
        "photographs enlarged to 4K by many methods", (1, 5), _upscaled, divided=True,
    ),
    Recipe(
        "generated", f"{ILMENAU}/avt_ai_images", "generated pictures", "GPL-3.0",
        "pictures of five generators, rated for quality", (1, 5), _generated,
    ),
    Recipe(
        "web pages", "calista-ai/website-aesthetics-datasets", "documents and screens", "CC BY-NC-SA 3.0",
        "full-size screenshots, rated for their looks", (1, 9), _web_pages, "looks",
    ),
    Recipe(
        "scans", "slug183/phone-scan", "documents and screens", "none stated",
        "documents, scanned and photographed; mean confidence of Tesseract over words", (0, 1), _scans, "machine",
    ),
    Recipe(
        "synthesised views", "Louis19/QoA-of-synthesized-view", "other", "none stated",
        "pictures of IRCCyN/IVC DIBR: views that were computed from depth", (1, 5), _views,
    ),
)  # fmt: skip


if __name__ == "__main__":
    main()
