"""A perceptual hash: 64 bits that are nearly the same for images that look nearly the same.

It is pHash as the package imagehash defines it (`imagehash.phash`): the image in gray, resized to 32 x 32 with Pillow's
antialiased Lanczos filter; of its two-dimensional cosine transform the 8 x 8 lowest frequencies; a bit for each that is
above their median. The first bit is the mean's, the highest of the number.

It is made from the image as it is resized to be scored, turned upright and before views are cut, of which every so
many rows and columns are taken, so that it costs no more than the hundredth part of a run. That moves some two bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

THIN = 96  # rows and columns that are taken, at least
SIDE, LOW = 32, 8
_FREQUENCY, _PLACE = np.arange(LOW)[:, None], np.arange(SIDE)[None]
_COSINES = 2 * np.cos(np.pi * _FREQUENCY * (2 * _PLACE + 1) / (2 * SIDE))  # the rows of scipy.fft.dct, unnormalised
_DIGITS = 6  # of a coefficient that count: a plain image has none but rounding errors
_MIDDLE = LOW * LOW // 2


def thinned(pixels: Any) -> Any:
    """Every so many rows and columns of an image [H, W, 3] uint8, its last axis contiguous."""
    step = max(1, min(pixels.shape[:2]) // THIN)
    whole = pixels.view("V3")[step // 2 :: step, step // 2 :: step].copy()  # a pixel is one item: five times as fast
    return whole.view(np.uint8).reshape(*whole.shape[:2], 3)


def phash(pixels: Any) -> int:
    """The hash of an image [H, W, 3] uint8; 1 to 2**64 - 1, 0 stands for no hash."""
    gray = Image.fromarray(thinned(pixels)).convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    low = np.round(_COSINES @ np.asarray(gray, np.float64) @ _COSINES.T, _DIGITS).ravel()
    two = np.partition(low, (_MIDDLE - 1, _MIDDLE))[_MIDDLE - 1 : _MIDDLE + 1]
    return max(1, int.from_bytes(np.packbits(low > two.mean()).tobytes(), "big"))
