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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from metaqap_fast.bench import public_layouts as layouts
from metaqap_fast.bench.public_layouts import Picture
from metaqap_fast.errors import UsageError
from metaqap_fast.streams import counted


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
    divided: bool = False


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


ILMENAU = "Telecommunication-Telemedia-Assessment"
RECIPES = (
    Recipe(
        "underwater", "JOU-UIP/PCUID", "authentic photographs", "none stated",
        "underwater photographs; per cent of the comparisons that a photograph won", (0, 100), layouts.underwater,
        "pairs",
    ),
    Recipe(
        "rated beside generated pictures", f"{ILMENAU}/avt_ai_images", "authentic photographs", "GPL-3.0",
        "photographs, rated for quality", (1, 5), layouts.photographs,
    ),
    Recipe(
        "stills", f"{ILMENAU}/image_quality_test", "compression", "GPL-3.0",
        "square frames of films, HEVC intra at several sizes and qualities, shown on a screen of 2,160 lines", (1, 5),
        layouts.stills, divided=True,
    ),
    Recipe(
        "photographs under JPEG", "Amatofrancesco99/Image-compression-and-subjective-quality-assessment", "compression",
        "MIT", "photographs, and the same at JPEG quality 10 and 4", (1, 5), layouts.under_jpeg,
    ),
    Recipe(
        "learned codecs and restoration", "martafilipa/gan-image-database", "compression", "none stated",
        "learned codecs and removal of JPEG artifacts; the share of all pictures that a picture is preferred to, by "
        "Bradley and Terry's model", (0, 1), layouts.learned, "pairs",
    ),
    Recipe(
        "upscaled", "mb21100/SR4KIQA", "scaling", "none stated",
        "photographs enlarged to 4K by many methods", (1, 5), layouts.upscaled, divided=True,
    ),
    Recipe(
        "generated", f"{ILMENAU}/avt_ai_images", "generated pictures", "GPL-3.0",
        "pictures of five generators, rated for quality", (1, 5), layouts.generated,
    ),
    Recipe(
        "web pages", "calista-ai/website-aesthetics-datasets", "documents and screens", "CC BY-NC-SA 3.0",
        "full-size screenshots, rated for their looks", (1, 9), layouts.web_pages, "looks",
    ),
    Recipe(
        "scans", "slug183/phone-scan", "documents and screens", "none stated",
        "documents, scanned and photographed; mean confidence of Tesseract over words", (0, 1), layouts.scans,
        "machine",
    ),
    Recipe(
        "synthesised views", "Louis19/QoA-of-synthesized-view", "other", "none stated",
        "pictures of IRCCyN/IVC DIBR: views that were computed from depth", (1, 5), layouts.views,
    ),
)  # fmt: skip


if __name__ == "__main__":
    main()
