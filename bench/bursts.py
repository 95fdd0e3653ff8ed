"""Bursts made of photographs: how often the best frame is found, and whether stated probabilities come true.

    python -m metaqap_fast.bench.bursts PHOTOGRAPHS [--bursts 200] [--seed 0] [--engine ...] [--save bursts.h5]
    python -m metaqap_fast.bench.bursts bursts.h5

A burst is FRAMES frames of one photograph, each cut and exposed a little differently, as by a hand and a meter, and
each blurred by another amount, the first by none. So the order of the frames is known. Prints, as JSON:

    grouped      share of frames that are in one group with the best scored frame of their burst, by distance
    best         share of bursts whose sharpest frame has the highest score
    first_two    share of bursts in which it has the highest or the second score
    likeliest    the correlation of errors that makes the known orders the most likely, for either half of the bursts
    reliability  for pairs of frames of one burst by the stated probability that the higher score is the better frame:
                 how many, the mean of what was stated, and how often it was so
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from metaqap_fast.options import BURST_DISTANCE, DISTANCE
from metaqap_fast.review.groups import CORRELATION, better, grouped
from metaqap_fast.scorer import Scorer
from metaqap_fast.scores.table import ScoreTable

FRAMES = 5
BLUR = 1.6  # sigma of the last frame, in pixels
CUT, EXPOSURE = 0.03, 0.15  # of a side; stops, either way
BINS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0001)


def burst(photograph: Image.Image, rng: np.random.Generator) -> Iterator[Image.Image]:
    """Frames of a photograph, the sharpest first."""
    width, height = photograph.size
    for number in range(FRAMES):
        left, top = (rng.uniform(0, CUT, 2) * (width, height)).astype(int)
        frame = photograph.crop((left, top, left + int(width * (1 - CUT)), top + int(height * (1 - CUT))))
        if number:
            frame = frame.filter(ImageFilter.GaussianBlur(BLUR * number / (FRAMES - 1)))
        gain = 2 ** rng.uniform(-EXPOSURE, EXPOSURE)
        yield Image.fromarray(np.clip(np.asarray(frame, np.float32) * gain + 0.5, 0, 255).astype(np.uint8))


def figures(table: ScoreTable) -> dict[str, Any]:
    """Of the rows of bursts, one after the other."""
    score = table.score.reshape(-1, FRAMES)
    places = np.argsort(np.argsort(-score, axis=1, kind="stable"), axis=1)
    hashes = np.asarray(table.columns["hash"])
    winners = np.repeat(np.arange(len(score)) * FRAMES + score.argmax(1), FRAMES)
    chance = _chances(score, table.uncertainty.reshape(-1, FRAMES), CORRELATION)
    claims, truth = np.maximum(chance, 1 - chance), chance > 0.5
    bins = np.digitize(claims, BINS) - 1
    return {
        "bursts": len(score),
        "grouped": {n: float((grouped(hashes, table.score, n) == winners).mean()) for n in (DISTANCE, BURST_DISTANCE)},
        "best": float((places[:, 0] == 0).mean()),
        "first_two": float((places[:, 0] <= 1).mean()),
        "likeliest": [_likeliest(score[i::2], table.uncertainty.reshape(-1, FRAMES)[i::2]) for i in (0, 1)],
        "correlation": CORRELATION,
        "reliability": [
            {"pairs": int(one.sum()), "stated": float(claims[one].mean()), "was_so": float(truth[one].mean())}
            for one in (bins == i for i in range(len(BINS) - 1))
            if one.any()
        ],
    }


def _chances(score: Any, sigma: Any, correlation: float) -> Any:
    """What is stated for each pair of frames of a burst: that the sharper one is better."""
    pairs = combinations(range(FRAMES), 2)
    return np.concatenate([better(score[:, i], sigma[:, i], score[:, j], sigma[:, j], correlation) for i, j in pairs])


def _likeliest(score: Any, sigma: Any) -> float:
    tried = [*np.arange(0, 0.95, 0.05), *np.arange(0.95, 0.9999, 0.005)]
    return float(max(tried, key=lambda r: np.log(np.clip(_chances(score, sigma, r), 1e-6, 1)).sum()))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path, help="a folder of sharp photographs, or what --save kept")
    parser.add_argument("--bursts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--save", type=Path, help="keep the scores in this file")
    given = parser.parse_args()
    if given.photographs.suffix == ".h5":
        print(json.dumps(figures(ScoreTable.read(given.photographs)), indent=1))
        return
    rng = np.random.default_rng(given.seed)
    files = sorted(path for path in given.photographs.iterdir() if path.suffix.lower() in (".png", ".webp", ".jpg"))
    chosen = rng.permutation(len(files))[: given.bursts]
    with Scorer(engine=given.engine) as scorer:
        table = scorer.score_arrays(frame for i in chosen for frame in burst(Image.open(files[i]).convert("RGB"), rng))
        about = scorer.describe()
    if given.save:
        table.save(given.save)
    print(json.dumps({**figures(table), **{name: about[name] for name in ("bundle", "engine", "precision")}}, indent=1))


if __name__ == "__main__":
    main()
