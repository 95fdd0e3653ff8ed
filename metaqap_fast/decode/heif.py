"""HEIC by libheif and libde265 (the package pi-heif, which holds decoders only)."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np

from metaqap_fast.decode.extra import library
from metaqap_fast.formats import Header
from metaqap_fast.formats.format import differs
from metaqap_fast.records import Pixels


@lru_cache(maxsize=1)
def _library(form: str) -> Any:
    heif = library("pi_heif", form)
    # Nothing but the picture itself is decoded.
    heif.options.THUMBNAILS = heif.options.DEPTH_IMAGES = heif.options.AUX_IMAGES = False
    heif.options.DECODE_THREADS = 1
    return heif


def decode(data: memoryview, header: Header) -> Pixels:
    """See `PixelDecoder`: the primary picture, cut and turned by the file's own properties; 10 bits become 8."""
    image = _library(header.format).open_heif(io.BytesIO(data), convert_hdr_to_8bit=True)
    if image.size != (header.width, header.height):
        raise differs((header.width, header.height), image.size)
    # A copy, for libheif's memory goes with the image; its rows may be longer than the picture.
    pixels = np.array(image)[:, : header.width]
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    return np.ascontiguousarray(np.repeat(pixels[:, :, :1], 3, axis=2) if pixels.shape[2] < 3 else pixels[:, :, :3])
