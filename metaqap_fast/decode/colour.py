"""Colours as a viewer shows them: pixels of a file with an ICC profile become sRGB.

By LittleCMS, relative colorimetric. A profile that is sRGB's, whatever it is called, changes nothing: such images keep
their exact pixels. A profile that cannot be read or used is passed over, as viewers do, and the row says so.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from metaqap_fast.records import Pixels

BROKEN = "its colour profile is damaged and was ignored"
SAME = 2  # levels: a profile that moves no colour by more is sRGB's
MOST = 4 << 20  # bytes of a profile
WHITE = 128  # levels: a profile whose white is darker, or coloured, is none
_GRID = 17  # colours along each axis that this is judged by
_SPACES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}


@dataclass(frozen=True, slots=True)
class Colours:
    """What a profile does to pixels of one mode (`RGB`, `L` or `CMYK`). `transform` is None where that is nothing."""

    mode: str = ""
    transform: Any = None
    note: str = ""

    def rgb(self, pixels: Pixels) -> Pixels:
        """Pixels [H, W, 3] (RGB, or gray in equal channels) as sRGB. Those of another mode stay as they are."""
        if self.transform is None or self.mode == "CMYK" or not pixels.size:
            return pixels
        if self.mode == "RGB":
            return self.apply(pixels)
        # A gray profile in a colour file does not belong there; viewers pass over it.
        gray = pixels[:, :, :1]
        return self.apply(np.ascontiguousarray(gray[:, :, 0])) if (pixels == gray).all() else pixels

    def apply(self, pixels: Pixels) -> Pixels:
        """Pixels of this mode, [H, W] or [H, W, C], as sRGB [H, W, 3]."""
        from PIL import Image

        image = Image.fromarray(np.ascontiguousarray(pixels), self.mode)
        return np.array(self.transform.apply(image))


NONE = Colours()


def colours(icc: bytes) -> Colours:
    """What to do for a file's profile; none (empty) is sRGB."""
    if not icc:
        return NONE
    return _read(icc) if len(icc) <= MOST else Colours(note=BROKEN)


@lru_cache(maxsize=16)
def _read(icc: bytes) -> Colours:
    from PIL import ImageCms

    mode = _SPACES.get(icc[16:20])
    if mode is None:  # Lab, or a device with other inks: no pixels of ours are in it
        return Colours(note=BROKEN)
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        made = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", intent)
        found = Colours(mode, made)
        known = _known(mode)
        shown = known[:, :, None] if mode == "L" else known[:, :, :3]
        became = found.apply(known)
        moved = np.abs(became.astype(int) - shown)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return Colours(note=BROKEN)
    if mode != "CMYK" and became[0, -1].min() < WHITE:  # no device: a matrix of zeros, for example
        return Colours(note=BROKEN)
    return NONE if mode != "CMYK" and moved.max() <= SAME else found


def _known(mode: str) -> Pixels:
    """Colours that cover a mode, as an image of it: [1, n] or [1, n, C]."""
    levels = np.linspace(0, 255, _GRID).round().astype(np.uint8)
    if mode == "L":
        return np.arange(256, dtype=np.uint8)[None]
    axes = np.meshgrid(*[levels] * len(mode), indexing="ij")
    return np.stack([axis.reshape(1, -1) for axis in axes], 2)
