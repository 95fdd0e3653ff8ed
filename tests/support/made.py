"""Files of newer formats: HEIC by libheif's encoder (pillow-heif, for tests only), JPEG XL, and RAW by hand."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


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


def sensor(pixels: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """What a sensor with red, green, green, blue filters gives for a picture [H, W, 3], linear in 12 bits."""
    linear = ((pixels / 255.0) ** 2.2 * 4000 + 95).astype(np.uint16)
    out = linear[:, :, 1].copy()
    out[::2, ::2], out[1::2, 1::2] = linear[::2, ::2, 0], linear[1::2, 1::2, 2]
    return out


def dng(pixels: NDArray[np.uint8], preview: Image.Image | None = None, orientation: int = 1) -> bytes:
    """A DNG: a small picture first, then the sensor's data; a JPEG `preview` stands in a directory of its own."""
    import tifffile

    identity = tuple(n for i in range(9) for n in (int(i % 4 == 0), 1))
    tags = [
        (271, "s", 0, "Toy", False), (272, "s", 0, "Toy", False), (274, "H", 1, orientation, False),
        (33421, "H", 2, (2, 2), False), (33422, "B", 4, b"\0\1\1\2", False), (50706, "B", 4, b"\1\4\0\0", False),
        (50708, "s", 0, "Toy", False), (50714, "H", 1, 95, False), (50717, "H", 1, 4095, False),
        (50721, "2i", 9, identity, False), (50728, "2I", 3, (1,) * 6, False), (50778, "H", 1, 21, False),
    ]  # fmt: skip
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as writer:
        writer.write(sensor(pixels), photometric=32803, metadata=None, software="", subfiletype=0, extratags=tags)
    data = out.getvalue()
    if preview is not None:
        jpeg = io.BytesIO()
        preview.save(jpeg, "JPEG", quality=95)
        data += jpeg.getvalue()
    return data
