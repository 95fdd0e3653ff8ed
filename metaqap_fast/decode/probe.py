"""A JPEG whose pixels are known: what tells a GPU's failure from an image's.

512x512 in 8 x 8 flat squares, 4:2:0, as most photographs are stored. The middle of a square has its colour in any sound
decoder, at any size, to a few levels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from metaqap_fast.records import Pixels

SIDE, SQUARES = 512, 8
LEVELS = 8  # that a sound decoder may be off


def colours() -> Pixels:
    """Of the squares, [SQUARES, SQUARES, 3]."""
    i = np.arange(SQUARES * SQUARES)[:, None]
    levels = 32 + (i * (37, 101, 59) + (5, 90, 150)) % 192  # no colour that a JPEG cannot hold
    return levels.reshape(SQUARES, SQUARES, 3).astype(np.uint8)


def encoded() -> Pixels:
    """The file's bytes."""
    return np.frombuffer(Path(__file__).with_name("probe.jpg").read_bytes(), np.uint8)


def deviation(pixels: Pixels) -> int:
    """How far the decoded file [H, W, 3], at any size, is from what it should be: levels of the worst square."""
    rows, columns = ([(2 * i + 1) * length // (2 * SQUARES) for i in range(SQUARES)] for length in pixels.shape[:2])
    found = pixels[np.ix_(rows, columns)].astype(int)
    return int(np.abs(found - colours()).max())
