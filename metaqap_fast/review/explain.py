"""Where in an image its quality is lost: a map of local scores, and in words what the score says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from metaqap_fast.decode import DecodeOptions, Limits, create, views
from metaqap_fast.errors import MetaqapError
from metaqap_fast.input import open_sources
from metaqap_fast.input.reading import read_bytes
from metaqap_fast.model.readout import NAMED
from metaqap_fast.records import Row
from metaqap_fast.scorer import Scorer

LINES = 1024  # the shorter side of the picture that is looked at; a smaller image is taken as it is
CROP = 512  # side of the views, or half the shorter side if that is less: unscaled, so that detail counts
LEAST = 32  # side of a view that still says something
CELLS = 4  # of a view, along each side; views are a cell apart
SPREAD = 0.02  # a smaller difference between the worst and the best place is not worth a word
PLACES = (("upper", "middle", "lower"), ("left", "centre", "right"))
# From bad to good; ordered in brightness too, for those who see few colours.
COLOURS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], np.float64)
OVERLAY = 0.5  # how much of the colours lies over the picture


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where in one image quality is lost, and its score.

    Attributes:
        row: its result, as `Scorer.score` gives it.
        picture: [H, W, 3] uint8, the image as it was examined: upright, its shorter side at most 1,024 pixels.
        quality: [R, C] float32, the score of each cell, 0 worst to 1 best: the mean over the views that contain it,
            each scored like a whole image. Compare cells with each other, not with scores of whole images.
        reasons: [R, C, K] float32, in the same way the severity of each of the K reasons, if the bundle gives any.
        names: the names of the K reasons.
        cell: side of a cell in pixels of `picture`; the last row and column reach to its edges.
    """

    row: Row
    picture: NDArray[np.uint8]
    quality: NDArray[np.float32]
    reasons: NDArray[np.float32]
    names: tuple[str, ...]
    cell: int

    def words(self) -> list[str]:
        """What a person wants to know, a line each."""
        row = self.row
        lines = [f"score {row.score:.3f}, give or take {row.uncertainty:.3f}; {row.width} x {row.height} pixels"]
        found = sorted(zip(row.reasons.tolist(), self.names, strict=True), reverse=True)
        if found:
            named = [f"{name.replace('_', ' ')} {severity:.2f}" for severity, name in found if severity >= NAMED]
            lines.append(f"reasons: {', '.join(named) or 'none'}")
        worst, best = (np.unravel_index(f(self.quality), self.quality.shape) for f in (np.argmin, np.argmax))
        if self.quality[best] - self.quality[worst] < SPREAD:
            lines.append("alike everywhere")
        else:
            for name, (y, x) in (("worst", worst), ("best", best)):
                lines.append(f"{name} at the {self._place(int(y), int(x))}: {self.quality[y, x]:.3f}")
        return [*lines, *([row.note] if row.note else [])]

    def _place(self, y: int, x: int) -> str:
        """Such as "lower left"."""
        thirds = (3 * y // self.quality.shape[0], 3 * x // self.quality.shape[1])
        up, side = (names[third] for names, third in zip(PLACES, thirds, strict=True))
        return {"middle centre": "centre"}.get(f"{up} {side}", f"{up} {side}")

    def plain(self) -> NDArray[np.uint8]:
        """The map in colours [H, W, 3], as large as the picture: dark is the worst place, yellow the best."""
        height, width = self.picture.shape[:2]
        low, high = float(self.quality.min()), max(float(self.quality.max()), float(self.quality.min()) + SPREAD)
        image = Image.fromarray((self.quality - low) / (high - low)).resize((width, height), Image.Resampling.BICUBIC)
        return coloured(np.asarray(image).clip(0, 1))

    def image(self) -> Image.Image:
        """The map over the picture, and the map alone with its scale, side by side."""
        plain = self.plain()
        gray = self.picture.mean(-1, keepdims=True)  # colours are the map's
        over = (gray * (1 - OVERLAY) + plain * OVERLAY).round().astype(np.uint8)
        height, width = plain.shape[:2]
        gap, foot = 8, 28
        sheet = Image.new("RGB", (2 * width + gap, height + foot), "white")
        sheet.paste(Image.fromarray(over), (0, 0))
        sheet.paste(Image.fromarray(plain), (width + gap, 0))
        draw = ImageDraw.Draw(sheet)
        colours = coloured(np.linspace(0, 1, max(width // 2, 1)))
        sheet.paste(Image.fromarray(np.repeat(colours[None], 12, 0)), (width + gap + width // 4, height + 8))
        draw.text((width + gap + 4, height + 8), f"{self.quality.min():.2f}", "black")
        draw.text((sheet.width - 4, height + 8), f"{self.quality.max():.2f}", "black", anchor="ra")
        return sheet


def coloured(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Values from 0 to 1 as colours, [..., 3]."""
    places = values * (len(COLOURS) - 1)
    return np.stack([np.interp(places, range(len(COLOURS)), one) for one in COLOURS.T], -1).round().astype(np.uint8)


def explain(scorer: Scorer, path: str | os.PathLike[str]) -> Explanation:
    """Score an image, and parts of it.

    Raises:
        UsageError: no such file, or something else than one image.
        MetaqapError: it cannot be scored; the message says why.
    """
    (entry, *rest) = open_sources([path])
    if rest:
        raise MetaqapError(f"{os.fspath(path)} holds more than one image: name one")
    encoded = read_bytes(entry, scorer.max_bytes)
    (row,) = scorer.stream([entry])
    if row.status:
        raise MetaqapError(f"{os.fspath(path)}: {row.status.name}: {row.error}")
    decoder = create(DecodeOptions(LINES), limits=Limits())
    try:
        (decoded,) = decoder.stream([encoded])
    finally:
        decoder.close()
    if decoded.error is not None:
        raise MetaqapError(f"{os.fspath(path)}: {decoded.error.status.name}: {decoded.error.reason}")
    picture = views.joined(decoded.views, decoded.width, decoded.height)
    height, width = picture.shape[:2]
    side = max(min(CROP, min(height, width) // 2), min(LEAST, height, width))
    tops, lefts = starts(height, side), starts(width, side)
    rows = list(scorer.score_arrays(picture[y : y + side, x : x + side] for y in tops for x in lefts))
    values = np.stack([np.concatenate([[each.score], each.reasons]) for each in rows])
    cells = spread(values.reshape(len(tops), len(lefts), -1), min(CELLS, side))
    names = tuple(scorer.bundle.reasons)
    return Explanation(row, picture, cells[..., 0], cells[..., 1:], names, max(1, side // CELLS))


def starts(length: int, side: int) -> list[int]:
    """Where views begin along one side of an image: a cell apart, the first and the last at its ends."""
    count = 1 if length == side else -(-(length - side) * CELLS // side) + 1
    return [round(i * (length - side) / max(1, count - 1)) for i in range(count)]


def spread(values: NDArray[np.floating], cells: int) -> NDArray[np.float32]:
    """Values of views [Y, X, K], a cell apart and `cells` cells wide, as those of the cells [Y + cells - 1, ..., K].

    A cell's is the mean over the views that it lies in; those in whose middle it lies count more.
    """
    y, x, k = values.shape
    total, weight = np.zeros((y + cells - 1, x + cells - 1, k)), np.zeros((y + cells - 1, x + cells - 1, 1))
    ramp = 1 - np.abs((np.arange(cells) + 0.5) / cells * 2 - 1) + 0.5 / cells
    for (i, j), each in _places(ramp):
        total[i : i + y, j : j + x] += each * values
        weight[i : i + y, j : j + x] += each
    return (total / weight).astype(np.float32)


def _places(ramp: NDArray[np.floating]) -> Iterator[tuple[tuple[int, int], float]]:
    for i, row in enumerate(ramp):
        for j, column in enumerate(ramp):
            yield (i, j), float(row * column)
