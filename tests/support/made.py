"""Files of newer formats: HEIC by libheif's encoder (pillow-heif, for tests only), JPEG XL, and RAW by hand."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metaqap_fast.bench import formats


def heic(image: Image.Image, **options: Any) -> bytes:
    """`options` are those of pillow_heif's `save`; lossless unless they say otherwise."""
    import pillow_heif

    out = io.BytesIO()
    file = pillow_heif.from_pillow(image)
    file.save(out, **{"quality": -1, "chroma": 444, "matrix_coefficients": 0, **options})
    return out.getvalue()


def jxl(pixels: NDArray[Any], **options: Any) -> bytes:
    """Lossless unless the options say otherwise."""
    import imagecodecs

    return bytes(imagecodecs.jpegxl_encode(np.ascontiguousarray(pixels), **{"lossless": True, **options}))


def dng(pixels: NDArray[np.uint8], preview: Image.Image | None = None, orientation: int = 1) -> bytes:
    """A DNG of a picture [H, W, 3], and behind it a JPEG `preview`."""
    data = formats.dng(pixels, orientation)
    return data if preview is None else data + formats.saved(preview, "JPEG", quality=95)
