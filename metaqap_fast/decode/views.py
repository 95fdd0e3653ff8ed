"""How an image of any size and shape becomes the members' inputs: fixed-size square views.

A larger image is shown as on a screen: the shorter side fitted to the members' input size, antialiased, aspect ratio
kept. A smaller one is not enlarged, which would blur it, but extended by mirroring. The image is then covered by
overlapping square views along the longer side, and an image's member predictions are the mean over its views.

What 1,000 lines show and 512 do not is out of sight there. A large image may have one view behind them at a larger
scale, of which the model says how many lines it has: the part in which most happens. A model that has been taught to
read such a fine view lowers the score by what it sees there, see `metaqap_fast.model.readout`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_ASPECT = 8  # a longer strip is fitted by its longer side, to MAX_ASPECT view sizes
TOLERANCE = 16  # an overhang under 1/16 of a view is cropped rather than given a view of its own


def target_size(width: int, height: int, size: int) -> tuple[int, int]:
    """Size (width, height) in pixels that an image is resized to before views of side `size` are cut from it.

    Equal to the input where nothing is to be resized.
    """
    scale = min(1.0, size / min(width, height), MAX_ASPECT * size / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def fine_size(width: int, height: int, lines: int) -> tuple[int, int] | None:
    """The same, of `lines` on the shorter side, before its fine view is cut; None if it has none: an image of fewer
    lines, or a long strip."""
    if min(width, height) < lines or max(width, height) > MAX_ASPECT * min(width, height):
        return None
    return target_size(width, height, lines)


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


def cut(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
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
    windows: Any = [pixels[y : y + size, x : x + size] for y, x in _places(pixels.shape[0], pixels.shape[1], size)]
    if isinstance(windows[0], np.ndarray):
        return np.stack(windows) if len(windows) > 1 else windows[0][None]
    import torch  # pixels on a GPU stay there

    stacked: Any = torch.stack(windows)
    return stacked  # type: ignore[no-any-return]


def fine_view(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The window of an image in which most happens: where differences between neighbours, in green, add up to most.

    Green is most of what is seen. Neighbours are the means of 2 x 2 pixels, so that noise counts less than structure.
    All is done in whole numbers, so that a GPU finds the same window.

    Args:
        pixels: [H, W, 3] uint8, already at its `fine_size`; an array, or a torch tensor on any device.
        size: side of the view in pixels.

    Returns:
        [1, size, size, 3] uint8 of the same kind, which may share its memory.
    """
    height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
    green: Any = pixels[:height, :width, 1]
    green = green.astype(np.int32) if isinstance(pixels, np.ndarray) else green.int()
    green = green[::2, ::2] + green[1::2, ::2] + green[::2, 1::2] + green[1::2, 1::2]
    down, across = abs(green[1:] - green[:-1]), abs(green[:, 1:] - green[:, :-1])
    places = _places(pixels.shape[0], pixels.shape[1], size)
    happens = [
        down[y : y + size // 2 - 1, x : x + size // 2].sum() + across[y : y + size // 2, x : x + size // 2 - 1].sum()
        for y, x in ((y // 2, x // 2) for y, x in places)
    ]
    windows: Any = [pixels[y : y + size, x : x + size] for y, x in places]
    if isinstance(green, np.ndarray):
        found: NDArray[np.uint8] = windows[int(np.argmax(happens))][None]
        return found
    import torch

    # The choice stays on the device, and so the host does not wait for it.
    chosen: Any = torch.stack(windows).index_select(0, torch.stack(happens).argmax()[None])
    return chosen  # type: ignore[no-any-return]


def joined(views: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """The image that `cut` made views [N, S, S, 3] of, [H, W, 3], but for the margins that they leave out.

    Args:
        views: all of one image, without a fine one.
        width: of the image before it was resized.
        height: likewise.
    """
    size = views.shape[1]
    wide, high = target_size(width, height, size)
    places = _places(max(high, size), max(wide, size), size)
    (top, left), (bottom, right) = places[0], places[-1]
    out = np.empty((bottom - top + size, right - left + size, 3), np.uint8)
    for view, (y, x) in zip(views, places, strict=True):
        out[y - top : y - top + size, x - left : x - left + size] = view
    return out[:high, :wide]


def _places(height: int, width: int, size: int) -> list[tuple[int, int]]:
    """Where windows begin that cover an image, (top, left), row by row."""
    return [(y, x) for y in _starts(height, size) for x in _starts(width, size)]


def _starts(length: int, size: int) -> list[int]:
    """Evenly spaced starts of windows that cover `length` >= `size`, but for a margin under 1/TOLERANCE of a window."""
    count = math.ceil((length - size // TOLERANCE) / size)
    if count > MAX_ASPECT:
        return [round(i * (length - size) / (MAX_ASPECT - 1)) for i in range(MAX_ASPECT)]
    margin = max(0, length - count * size)
    span = length - margin - size
    return [margin // 2 + round(i * span / max(1, count - 1)) for i in range(count)]
