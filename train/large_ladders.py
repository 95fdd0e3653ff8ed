"""Ladders of large photographs: fewer and fewer lines, and a codec at lower and lower quality, at their own size.

What `large` measures with full-reference metrics is left out here. The order alone is known, by how the copies are
made, and it is all that fine-tuning asks of them: that none scores above a better one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metaqap_fast.decode import DecodeOptions, create
from metaqap_fast.train.large import LEAST, SIDE, Copy, made, middle, plan, seed_of
from metaqap_fast.train.lessons import Lesson
from metaqap_fast.train.member import VIEW_SIZE

View = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class LargeLadders:
    """Copies [n], each photograph's together and itself first.

    Attributes:
        files: [n] the photograph of each.
        copies: [n] what is done to it.
        lessons: of the rows.
    """

    files: list[Path]
    copies: list[Copy]
    lessons: list[Lesson]


def ladders(files: Sequence[Path], least: int = LEAST) -> LargeLadders:
    """The ladders of photographs; those with fewer than `least` lines are left out."""
    kept: list[Path] = []
    copies: list[Copy] = []
    lessons = []
    for file in files:
        with Image.open(file) as opened:
            lines = min(opened.size)
        if lines < least:
            continue
        planned = plan(min(SIDE, lines // 2 * 2), np.random.default_rng(seed_of(file)))
        chosen = [copy for place, copy in enumerate(planned) if copy.ladder or not place]
        start = len(copies)
        for ladder in sorted({copy.ladder for copy in chosen} - {0}):
            rows = tuple(start + place for place, copy in enumerate(chosen) if copy.ladder == ladder)
            lessons.append(Lesson(start, rows, ordered=True))
        kept += [file] * len(chosen)
        copies += chosen
    return LargeLadders(kept, copies, lessons)


def views(large: LargeLadders, start: int, stop: int, threads: int = 2) -> Iterator[View]:
    """The views [S, S, 3] uint8 of rows `start` to `stop` - 1, as scoring sees the whole copies."""
    decoder = create(DecodeOptions(VIEW_SIZE))
    with ThreadPoolExecutor(threads) as pool:
        for file, rows in groupby(range(start, stop), key=lambda row: large.files[row]):
            photograph = middle(file, 0)
            assert photograph is not None  # it has been asked for its size
            copies = pool.map(partial(_pixels, photograph), [large.copies[row] for row in rows])
            for image in decoder.stream_arrays((bytes(file), pixels) for pixels in copies):
                yield image.views[0]
    decoder.close()


def _pixels(photograph: Image.Image, copy: Copy) -> View:
    return np.asarray(made(photograph, copy))
