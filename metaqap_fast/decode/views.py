"""How an image of any size and shape becomes the members' inputs: fixed-size square views.

Two modes (the choice and its numbers: the model card):

fit       (default) A larger image is shown as on a screen: the shorter side fitted to the members' input size,
          antialiased, aspect ratio kept. A smaller one is not enlarged, which would blur it, but extended by
          mirroring. The image is then covered by overlapping square views along the longer side.
unscaled  No rescaling: a grid of crops at full resolution that covers the image. It ranks images worse.

An image's member predictions are the mean over its views.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.options import Views

MAX_ASPECT = 8  # a longer strip is fitted by its longer side, to MAX_ASPECT view sizes
MAX_GRID = 8  # unscaled: at most MAX_GRID x MAX_GRID views, spread evenly
TOLERANCE = 16  # an overhang under 1/16 of a view is cropped rather than given a view of its own


def target_size(width: int, height: int, size: int, mode: Views) -> tuple[int, int]:
    """Size (width, height) in pixels that an image is resized to before views are cut from it.

    Equal to the input where nothing is to be resized.
    """
    if mode == "unscaled":
        return width, height
    scale = min(1.0, size / min(width, height), MAX_ASPECT * size / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def turned(pixels: Any, orientation: int) -> Any:
    """Pixels [H, W, ...] as a viewer shows them; an array, or a torch tensor on any device.

    Args:
        pixels: as they are stored.
        orientation: EXIF's, 1 to 8; with 5 to 8 width and height change places.
    """
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    axes = [axis for axis, turns in ((0, (3, 4, 7, 8)), (1, (2, 3, 6, 7))) if orientation in turns]
    if not isinstance(pixels, np.ndarray):
        return pixels.flip(axes) if axes else pixels
    return np.flip(pixels, tuple(axes))


def cut(pixels: NDArray[np.uint8], size: int, mode: Views) -> NDArray[np.uint8]:
    """Square views of a resized image.

    Args:
        pixels: [H, W, 3] uint8, already at its `target_size`; an array, or a torch tensor on any device.
        size: side of a view in pixels.

    Returns:
        [N, size, size, 3] uint8 of the same kind, N >= 1; a single view of an array may share its memory. A side
        shorter than `size` is extended by mirroring.
    """
    height, width = pixels.shape[:2]
    if height < size or width < size:
        rows, columns = (np.pad(np.arange(n), (0, max(0, size - n)), mode="symmetric") for n in (height, width))
        pixels = pixels[rows][:, columns]
    limit = MAX_GRID if mode == "unscaled" else MAX_ASPECT
    tops = _starts(pixels.shape[0], size, limit)
    lefts = _starts(pixels.shape[1], size, limit)
    windows: Any = [pixels[y : y + size, x : x + size] for y in tops for x in lefts]
    if isinstance(windows[0], np.ndarray):
        return np.stack(windows) if len(windows) > 1 else windows[0][None]
    import torch  # pixels on a GPU stay there

    stacked: Any = torch.stack(windows)
    return stacked  # type: ignore[no-any-return]


def joined(views: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """The image that `cut` made `fit` views [N, S, S, 3] of, [H, W, 3], but for the margins that they leave out.

    Args:
        views: all of one image.
        width: of the image before it was resized.
        height: likewise.
    """
    size = views.shape[1]
    wide, high = target_size(width, height, size, "fit")
    tops, lefts = _starts(max(high, size), size, MAX_ASPECT), _starts(max(wide, size), size, MAX_ASPECT)
    out = np.empty((tops[-1] - tops[0] + size, lefts[-1] - lefts[0] + size, 3), np.uint8)
    places = [(y - tops[0], x - lefts[0]) for y in tops for x in lefts]
    for view, (y, x) in zip(views, places, strict=True):
        out[y : y + size, x : x + size] = view
    return out[:high, :wide]


def _starts(length: int, size: int, limit: int) -> list[int]:
    """Evenly spaced starts of windows that cover `length` >= `size`, but for a margin under 1/TOLERANCE of a window."""
    count = math.ceil((length - size // TOLERANCE) / size)
    if count > limit:
        return [round(i * (length - size) / (limit - 1)) for i in range(limit)]
    margin = max(0, length - count * size)
    span = length - margin - size
    return [margin // 2 + round(i * span / max(1, count - 1)) for i in range(count)]
