"""A small labelled set, photographs and opinions, for what is trained on all three."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from metaqap_fast.train.damage import KADIS, KINDS, Step
from metaqap_fast.train.distortions import LEVELS

SIZE = 512


def damaged(view: np.ndarray, steps: Sequence[Step], seed: int) -> np.ndarray:
    """In place of damage, which costs more than all else here: darker with every level, by as much as the kind says."""
    share = np.prod([1 - 0.1 * (step.level + 1) * (0.3 + step.kind / len(KINDS)) for step in steps])
    return (view * share).astype(np.uint8)


def rated_set(root: Path, rng: np.random.Generator) -> None:
    """`set`, whose pictures are better the brighter they are, with mos.csv; `photographs`; and `cells.csv`."""

    def picture(brightness: float) -> Image.Image:
        coarse = rng.integers(0, 256, (16, 16, 3)) * brightness
        return Image.fromarray(coarse.astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)

    (root / "set").mkdir()
    (root / "photographs").mkdir()
    rows = ["image,mos"]
    for i in range(60):
        brightness = rng.uniform(0.3, 1)
        picture(brightness).save(root / f"set/{i}.png", compress_level=1)
        rows.append(f"{i}.png,{brightness:.3f}")
    (root / "set/mos.csv").write_text("\n".join(rows))
    for i in range(16):
        picture(0.95).save(root / f"photographs/{i}.png", compress_level=1)
    cells = [f"{k + 1},{v + 1},{4.5 - 0.7 * v - k / 50:.2f}" for k in range(KADIS) for v in range(LEVELS)]
    (root / "cells.csv").write_text("id,level,mean_opinion\n" + "\n".join(cells))
