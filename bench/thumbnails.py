"""What a small copy hides: how far scores of thumbnails are from what people said of the photograph.

    python -m metaqap_fast.bench.thumbnails BIQ2021/

Photographs of the training split, spread over the scale of opinions, are reduced with Lanczos' filter and scored. The
last column is what `small_variance` in a bundle's `bundle.json` holds.

The model errs less on images that it was trained on than its uncertainty says. That difference, taken at full size, is
added to the error at each size, so that the variance which is missing is that of images which it has not seen.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metaqap_fast.evaluation import srocc
from metaqap_fast.options import MODEL
from metaqap_fast.scorer import Scorer
from metaqap_fast.train.datasets import load, split

F64 = NDArray[np.float64]
SIZES = (32, 48, 64, 96, 128, 192, 256, 384)


def main() -> None:
    """Score, and print a row for each size and the points for `bundle.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("biq2021", type=Path)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--model", default=MODEL)
    options = parser.parse_args()
    data = load("biq2021", options.biq2021)
    train = split(data).train
    ranked = train[np.argsort(data.mos[train], kind="stable")]
    chosen = ranked[np.linspace(0, len(ranked) - 1, options.images).astype(int)]
    files, mos = [data.files[i] for i in chosen], data.mos[chosen]
    with Scorer(options.model, precision="fp32") as scorer:
        scorer.bundle = replace(scorer.bundle, meta=replace(scorer.bundle.meta, small_variance=()))
        full = scorer.bundle.view_size
        found = {size: scored(scorer, files, size) for size in (*(s for s in SIZES if s < full), full)}
    variances = missing(found, mos)
    print(f"{options.model}, {len(files)} photographs; MOS 0 to 1")
    print("| pixels | SROCC | mean error | RMSE | its own sigma | sigma that is missing | within 1 sigma with it |")
    for (size, (score, own)), variance in zip(found.items(), variances, strict=True):
        error, whole = score - mos, np.sqrt(own**2 + variance)
        print(
            f"| {size} | {srocc(score, mos):.3f} | {error.mean():+.3f} | {np.sqrt((error**2).mean()):.3f} |"
            f" {np.sqrt((own**2).mean()):.3f} | {np.sqrt(variance):.3f} | {(np.abs(error) < whole).mean():.0%} |"
        )
    print(json.dumps([[size, round(float(value), 4)] for size, value in zip(found, variances, strict=True)]))


def scored(scorer: Scorer, files: Sequence[Path], size: int) -> tuple[F64, F64]:
    """Scores [n] and uncertainties [n] of square copies with `size` pixels a side."""
    table = scorer.score_arrays(copy(path, size) for path in files)
    return table.score.astype(np.float64), table.uncertainty.astype(np.float64)


def copy(path: Path, size: int) -> Image.Image:
    """A photograph as a square of `size` pixels a side."""
    with Image.open(path) as image:
        return image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)


def missing(found: dict[int, tuple[F64, F64]], mos: F64) -> F64:
    """The variance that each size's own uncertainty lacks, falling with size to 0 at the last, full one."""
    lacking = np.array([((score - mos) ** 2).mean() - (own**2).mean() for score, own in found.values()])
    return np.maximum.accumulate(np.maximum(lacking - lacking[-1], 0.0)[::-1])[::-1]


if __name__ == "__main__":
    main()
