"""All 125 distortions of one photograph as one picture.

    python -m metaqap_fast.train.distortions.sheet -o docs/distortions.jpg [--photograph FILE]

Without a photograph: scikit-image's `chelsea` (CC0). Each cell is a crop in its original pixels; the first column is
the original.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from metaqap_fast.train.distortions import DISTORTIONS, LEVELS, distort, stretch
from metaqap_fast.train.distortions.base import to_uint8

SOURCE = 256  # the side that is distorted
CELL = 160  # the side that is shown
GAP, LABEL = 4, 18
SEED = 1


def contact_sheet(image: np.ndarray, seed: int = SEED) -> Image.Image:
    """[SOURCE, SOURCE, 3] uint8 -> a row for each kind: the original, then its levels 1..5."""
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    rows, columns = len(DISTORTIONS), LEVELS + 1
    sheet = Image.new("RGB", (columns * (CELL + GAP) + GAP, rows * (CELL + LABEL + GAP) + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    levels = list(range(1, LEVELS + 1))
    for row, kind in enumerate(DISTORTIONS):
        top = GAP + row * (CELL + LABEL + GAP)
        shown = [stretch(x), *distort(x.expand(LEVELS, -1, -1, -1), [kind.id] * LEVELS, levels, [seed] * LEVELS)]
        names = [f"{kind.id} {kind.name}", *(f"{parameter:g}" for parameter in kind.levels)]
        for column, (cell, name) in enumerate(zip(shown, names, strict=True)):
            left = GAP + column * (CELL + GAP)
            margin = (SOURCE - CELL) // 2
            pixels = to_uint8(cell.reshape(3, SOURCE, SOURCE))[margin : margin + CELL, margin : margin + CELL]
            pen.text((left + 2, top), name, fill="black", font=font)
            sheet.paste(Image.fromarray(pixels), (left, top + LABEL))
    return sheet


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--photograph", type=Path, help="any image; its central square is used")
    options = parser.parse_args()
    if options.photograph:
        photograph = Image.open(options.photograph).convert("RGB")
    else:
        from skimage import data

        photograph = Image.fromarray(data.chelsea())
    side = min(photograph.size)
    left, top = (photograph.width - side) // 2, (photograph.height - side) // 2
    square = photograph.crop((left, top, left + side, top + side)).resize((SOURCE, SOURCE), Image.Resampling.LANCZOS)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(np.asarray(square)).save(options.out, quality=80)


if __name__ == "__main__":
    main()
