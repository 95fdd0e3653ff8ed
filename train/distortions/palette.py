"""Colour quantisation (kind 6): a minimum-variance palette, dithered."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from metaqap_fast.train.distortions.base import Draws, each

_BITS = 5  # colours are counted in a cube of 32 cells a side
_SIDE = 1 << _BITS


def colour_quantisation(x: Tensor, colours: float, _: Draws) -> Tensor:
    """6: a palette of so many colours, with error diffusion (Floyd and Steinberg, Pillow's)."""
    return each(lambda pixels: dithered(pixels, minimum_variance_palette(pixels, int(colours))), x)


def dithered(pixels: NDArray[np.uint8], palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, W, 3] uint8 drawn with the colours of palette [n, 3]."""
    chart = Image.new("P", (1, 1))
    chart.putpalette(palette.tobytes() + palette[-1].tobytes() * (256 - len(palette)))
    drawn = Image.fromarray(pixels).quantize(palette=chart, dither=Image.Dither.FLOYDSTEINBERG)
    return np.asarray(drawn.convert("RGB"))


def minimum_variance_palette(pixels: NDArray[np.uint8], colours: int) -> NDArray[np.uint8]:
    """[n <= colours, 3] uint8: the RGB cube cut again and again where the summed variance falls most.

    X. Wu, "Efficient statistical computations for optimal color quantization" (Graphics Gems II, 1991): any
    box's sums come from eight corners of one cumulative table.
    """
    table = _cumulative(pixels.reshape(-1, 3))
    boxes = [(0, _SIDE, 0, _SIDE, 0, _SIDE)]
    sums = [table[-1, -1, -1]]
    cuts = [_best_cut(table, boxes[0])]
    while len(boxes) < colours:
        i = max(range(len(boxes)), key=lambda k: cuts[k][0])
        gain, axis, position = cuts[i]
        if gain <= 0:
            break  # every box holds one cell: there are no more colours
        low, high = list(boxes[i]), list(boxes[i])
        low[2 * axis + 1] = high[2 * axis] = position
        halves = [(b[0], b[1], b[2], b[3], b[4], b[5]) for b in (low, high)]
        for k, box in ((i, halves[0]), (len(boxes), halves[1])):
            boxes[k : k + 1], sums[k : k + 1] = [box], [_box_sum(table, box)]
            cuts[k : k + 1] = [_best_cut(table, box)]
    totals = np.stack(sums)
    palette: NDArray[np.uint8] = np.rint(totals[:, 1:] / totals[:, :1]).astype(np.uint8)
    return palette


def _cumulative(colours: NDArray[np.uint8]) -> NDArray[np.float64]:
    """[33, 33, 33, 4]: count and summed R, G, B of all pixels below each corner of the cube."""
    cell = (colours >> (8 - _BITS)).astype(np.int64)
    index = (cell[:, 0] * _SIDE + cell[:, 1]) * _SIDE + cell[:, 2]
    columns = [None, *colours.T.astype(np.float64)]
    moments = np.stack([np.bincount(index, column, minlength=_SIDE**3) for column in columns], -1)
    cube = np.zeros((_SIDE + 1, _SIDE + 1, _SIDE + 1, 4))
    cube[1:, 1:, 1:] = moments.reshape(_SIDE, _SIDE, _SIDE, 4).cumsum(0).cumsum(1).cumsum(2)
    return cube


def _box_sum(table: NDArray[np.float64], box: tuple[int, ...]) -> NDArray[np.float64]:
    r0, r1, g0, g1, b0, b1 = box
    t = table[[r0, r1]][:, [g0, g1]][:, :, [b0, b1]]
    total: NDArray[np.float64] = np.diff(np.diff(np.diff(t, axis=0), axis=1), axis=2)[0, 0, 0]
    return total


def _best_cut(table: NDArray[np.float64], box: tuple[int, ...]) -> tuple[float, int, int]:
    """(fall of the squared error, axis, position) of the box's best cut; gain 0 if it cannot be cut."""
    whole = _box_sum(table, box)
    base = (whole[1:] ** 2).sum() / whole[0]
    best = (0.0, 0, 0)
    for axis in range(3):
        start, stop = box[2 * axis], box[2 * axis + 1]
        if stop - start < 2:
            continue
        faces = table
        for other in (2, 1, 0):
            if other == axis:
                faces = np.take(faces, range(start, stop), axis=other)
            else:
                faces = np.take(faces, box[2 * other + 1], axis=other) - np.take(faces, box[2 * other], axis=other)
        below = faces[1:] - faces[0]  # sums of the box up to each inner cut
        above = whole - below
        valid = (below[:, 0] > 0) & (above[:, 0] > 0)
        if not valid.any():
            continue
        squares = [(part[:, 1:] ** 2).sum(1) / np.maximum(part[:, 0], 1) for part in (below, above)]
        gain = np.where(valid, squares[0] + squares[1] - base, -1)
        k = int(gain.argmax())
        if gain[k] > best[0]:
            best = (float(gain[k]), axis, start + 1 + k)
    return best
