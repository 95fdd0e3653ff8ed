"""Whether a score depends on how many pixels a photograph has: the same ones at several sizes.

    python -m metaqap_fast.bench.sizes PHOTOGRAPHS/ [--model NAME] [-o sizes.json]

PHOTOGRAPHS are large undamaged ones, such as `train heads --large` takes, of which only the parts that it does not
learn from are used. Their middle squares are reduced with Lanczos' filter. From 512 pixels on nothing is lost to the
eye, on a screen of 512 lines, so that their mean score should not change.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metaqap_fast.bench.environment import describe
from metaqap_fast.bench.printed import printed
from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.options import MODEL
from metaqap_fast.scorer import Scorer
from metaqap_fast.train import large

SIZES = (4000, 2000, 1000, 512, 256, 128)
REFERENCE = 512
PARTS = ("validation", "untouched")


def main() -> None:
    """Score every photograph at every size and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--model", default=MODEL, help="a name or a folder")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    try:
        files = [path for part in PARTS for path in large.files_of(options.photographs, part)]
        found = {"environment": describe(), **measured(files, options.model, options.precision)}
    except MetaqapError as error:
        parser.error(str(error))
    printed(found, options.output)


def measured(files: Sequence[Path], model: str, precision: str) -> dict[str, Any]:
    """By size: photographs that are as large, their mean score, and its difference from that at 512 pixels.

    Raises:
        UsageError: no photograph is large enough.
    """
    lines = np.array([_lines(path) for path in files])
    if (lines < REFERENCE).any():
        raise UsageError(f"{files[int(lines.argmin())]} has fewer than {REFERENCE} lines")
    with Scorer(model, precision=precision) as scorer:
        scores = {size: np.asarray(scorer.score_arrays(squares(files, size)).score, np.float64) for size in SIZES}
        digest = scorer.bundle.digest
    sizes = {}
    for size, found in scores.items():
        whole = lines >= size
        change = found[whole] - scores[REFERENCE][whole]
        if whole.any():
            sizes[str(size)] = {
                "photographs": int(whole.sum()),
                "mean score": float(found[whole].mean()),
                "mean difference from 512": float(change.mean()),
                "largest": float(np.abs(change).max()),
            }
    return {"digest": digest, "sizes": sizes}


def squares(files: Sequence[Path], size: int) -> Iterator[NDArray[np.uint8]]:
    """The middle square of each, at most so many pixels wide."""
    for path in files:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        side = min(image.size)
        left, top = ((length - side) // 2 for length in image.size)
        square = image.crop((left, top, left + side, top + side))
        yield np.asarray(square if side <= size else square.resize((size, size), Image.Resampling.LANCZOS))


def _lines(path: Path) -> int:
    with Image.open(path) as opened:
        return min(opened.size)


if __name__ == "__main__":
    main()
