"""Four photographs with what the program says of them, as one picture, and the same in words where it is shown.

    python -m metaqap_fast.bench.picture

Run it in a checkout when the model has changed: it scores `examples/`, writes docs/scores.jpg, and its description in
the documents that show it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from metaqap_fast.records import Row
from metaqap_fast.scorer import Scorer

EXAMPLES = ("coffee_blurred.jpg", "astronaut_noisy.jpg", "coffee_jpeg_q8.jpg", "chelsea.jpg")
PICTURE = "docs/scores.jpg"
DOCUMENTS = ("README.md", "docs/index.md")
SHOWN = re.compile(r"!\[[^\]]*\]\(((?:docs/)?scores\.jpg)\)")
WIDTH, HEIGHT, GAP, LINE = 380, 300, 12, 34  # pixels: of a photograph, between two, of a line of text
RANGE = 8  # height of the bar
BAD, GOOD, PALE, INK = (200, 60, 40), (30, 140, 90), (225, 225, 225), (30, 30, 30)


def caption(row: Row) -> str:
    """Score, uncertainty and reason in words."""
    return f"{row.score:.2f} ± {row.uncertainty:.2f}" + (f", {row.reason}" if row.reason else "")


def description(rows: Sequence[Row]) -> str:
    """What a reader gets who does not see the picture."""
    each = "; ".join(f"{row.key.decode()}: {caption(row)}" for row in rows)
    return f"Four photographs and what the program says of them. {each}."


def drawn(folder: Path, rows: Sequence[Row]) -> Image.Image:
    """Parts of the photographs in their own pixels, each over its score and reason."""
    size = (len(rows) * (WIDTH + GAP) - GAP, HEIGHT + 2 * LINE + 4 * RANGE)
    sheet = Image.new("RGB", size, "white")
    pen, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(30), ImageFont.load_default(24)
    for place, row in enumerate(rows):
        left, top = place * (WIDTH + GAP), HEIGHT + RANGE
        photograph = Image.open(folder / row.key.decode()).convert("RGB")
        x, y = (photograph.width - WIDTH) // 2, (photograph.height - HEIGHT) // 4
        sheet.paste(photograph.crop((x, y, x + WIDTH, y + HEIGHT)), (left, 0))
        colour = tuple(round(bad + row.score * (good - bad)) for bad, good in zip(BAD, GOOD, strict=True))
        pen.rectangle((left, top, left + WIDTH - 1, top + RANGE), fill=PALE)
        ends = (max(row.score - row.uncertainty, 0) * WIDTH, min(row.score + row.uncertainty, 1) * WIDTH)
        pen.rectangle((left + ends[0], top, left + ends[1], top + RANGE), fill=colour)
        pen.text((left, top + 2 * RANGE), f"{row.score:.2f} ± {row.uncertainty:.2f}", fill=INK, font=font)
        pen.text((left, top + 2 * RANGE + LINE + 2), row.reason or "no fault found", fill=INK, font=small)
    return sheet


def main() -> None:
    """Write the picture, and the description into the documents."""
    root = Path(__file__).resolve().parents[1]
    folder = root / "examples"
    with Scorer(device="cpu", precision="fp32") as scorer:
        pairs = ((name, (folder / name).read_bytes()) for name in EXAMPLES)
        rows = sorted(scorer.score_stream(pairs), key=lambda row: EXAMPLES.index(row.key.decode()))
    words = description(rows)
    drawn(folder, rows).save(root / PICTURE, quality=85, comment=words)
    for name in DOCUMENTS:
        text = (root / name).read_text()
        (root / name).write_text(SHOWN.sub(lambda match: f"![{words}]({match[1]})", text))


if __name__ == "__main__":
    main()
