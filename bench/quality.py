"""Figures of merit of scores, as pure functions: ordering, calibration, parity; and harmless changes to an image."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Pixels = NDArray[np.uint8]
LEVELS = {68: 1.0, 95: 1.96}  # percent -> standard deviations of a normal distribution


def ordered_pairs(scores: F64) -> F64:
    """Share of correctly ordered pairs of levels for each image.

    Args:
        scores: [N, L], the mildest level first; a worse level must have a lower score. A tie is not ordered.

    Returns:
        [N], 0 to 1.
    """
    pairs = list(combinations(range(scores.shape[1]), 2))
    return np.asarray(np.mean([scores[:, mild] > scores[:, strong] for mild, strong in pairs], axis=0))


def coverage(mos: F64, score: F64, uncertainty: F64) -> dict[int, F64]:
    """Which images have their MOS within the interval of each level: percent -> [N] of 0 and 1."""
    error = np.abs(mos - score)
    return {percent: (error <= z * uncertainty).astype(np.float64) for percent, z in LEVELS.items()}


def recompressed(image: Pixels) -> Pixels:
    """JPEG at quality 95 and back."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=95)
    return np.array(Image.open(out).convert("RGB"))


def cropped(image: Pixels) -> Pixels:
    """Without its first row and column."""
    return image[1:, 1:]


def flipped(image: Pixels) -> Pixels:
    """Left and right exchanged."""
    return image[:, ::-1]


def resized(image: Pixels) -> Pixels:
    """Smaller by 2 %, bicubic."""
    from PIL import Image

    size = round(0.98 * image.shape[1]), round(0.98 * image.shape[0])
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


# What must not move a score: a person would see none of it.
CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "JPEG at quality 95": recompressed,
    "crop by 1 pixel": cropped,
    "flip": flipped,
    "resize by 2 %": resized,
}
