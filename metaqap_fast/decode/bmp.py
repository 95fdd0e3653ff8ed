"""BMP, by numpy: rows of indexes or of masked numbers. Libraries differ in the masks and headers that they know."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats import Header
from metaqap_fast.formats.bmp import RLE4, RLE8, Layout, layout
from metaqap_fast.records import Pixels


def decode(data: memoryview, header: Header) -> Pixels:
    """See `PixelDecoder`: pixels [H, W, 3] uint8 RGB; alpha is left out."""
    image = layout(data)
    if image.packing in (RLE8, RLE4):
        return _coloured(_run_lengths(bytes(data[image.start :]), image), image)
    rows = np.frombuffer(data, np.uint8, image.height * image.row_bytes, image.start)
    rows = rows.reshape(image.height, image.row_bytes)
    if not image.top_down:
        rows = rows[::-1]
    if image.depth == 24:
        return rows[:, : 3 * image.width].reshape(image.height, image.width, 3)[:, :, ::-1]
    if image.depth > 8:
        pixels = np.ascontiguousarray(rows).view(f"<u{image.depth // 8}")[:, : image.width]
        return np.stack([_masked(pixels, mask) for mask in image.masks], axis=2)
    if image.depth < 8:
        bits = np.unpackbits(rows, axis=1)[:, : image.width * image.depth]
        weights = 1 << np.arange(image.depth, dtype=np.uint8)[::-1]
        return _coloured(bits.reshape(image.height, image.width, image.depth) @ weights, image)
    return _coloured(rows[:, : image.width], image)


def _masked(pixels: NDArray[Any], mask: int) -> Pixels:
    """The bits of a mask as 0 to 255; a colour without bits is 0."""
    shift = (mask & -mask).bit_length() - 1 if mask else 0
    most = mask >> shift
    if most & (most + 1):
        raise ImageError(Status.unsupported, f"BMP with the mask {mask:#x}, which has holes, is not supported")
    values = (pixels & mask).astype(np.uint64) >> shift
    return ((values * 255 + most // 2) // max(1, most)).astype(np.uint8)


def _coloured(indexes: NDArray[Any], image: Layout) -> Pixels:
    """Indexes [H, W] as colours; one behind the palette is black, as in browsers."""
    palette = np.zeros((256, 3), np.uint8)
    entries = np.frombuffer(image.palette, np.uint8).reshape(-1, image.entry)[:, 2::-1]
    palette[: len(entries)] = entries
    coloured: Pixels = palette[indexes]
    return coloured


def _run_lengths(data: bytes, image: Layout) -> Pixels:
    """RLE8 and RLE4: indexes [H, W]. What is skipped is 0; what fills up a row behind the image is dropped.

    Raises:
        ValueError: the data ends before the image does, or leaves it.
    """
    nibbles = image.packing == RLE4
    wide = image.width + (7 if nibbles else 3)  # some writers fill up rows to four bytes
    out = np.zeros((image.height, wide), np.uint8)
    x = y = at = 0
    while y < image.height:
        if at + 2 > len(data) or (data[at] == 0 and data[at + 1] == 2 and at + 4 > len(data)):
            raise ValueError("damaged or truncated pixel data")
        count, value = data[at], data[at + 1]
        at += 2
        if count:  # a run of one index, or of two in turn
            run = np.resize(np.array([value >> 4, value & 15] if nibbles else [value], np.uint8), count)
        elif value == 0:  # the end of a row
            x, y = 0, y + 1
            continue
        elif value == 1:  # the end of the image
            break
        elif value == 2:  # a step to the right and up
            x, y, at = x + data[at], y + data[at + 1], at + 2
            if x > wide or y >= image.height:
                raise ValueError("run lengths that leave the image")
            continue
        else:  # as many indexes as they are, filled up to two bytes
            size = (value + 1) // 2 if nibbles else value
            raw = np.frombuffer(data[at : at + size], np.uint8)
            run = (np.stack([raw >> 4, raw & 15], 1).ravel() if nibbles else raw)[:value]
            at += size + size % 2
            if len(run) < value:
                raise ValueError("damaged or truncated pixel data")
        if x + len(run) > wide:
            raise ValueError("run lengths that leave the image")
        out[y, x : x + len(run)] = run
        x += len(run)
    rows = out[:, : image.width]
    return rows if image.top_down else rows[::-1]
