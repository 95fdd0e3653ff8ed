"""Files of newer formats: HEIC by libheif's encoder (pillow-heif, for tests only), JPEG XL, and RAW by hand."""

from __future__ import annotations

import io
import struct
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


def deep(bits: int, **options: Any) -> bytes:
    """The corpus's picture as a JPEG of more than 8 bits."""
    import imagecodecs

    import corpus

    pixels = (corpus.PIXELS.astype(np.uint32) * ((1 << bits) - 1) // 255).astype(np.uint16)
    return bytes(imagecodecs.jpeg8_encode(pixels, bitspersample=bits, **options))


def dng(pixels: NDArray[np.uint8], preview: Image.Image | None = None, orientation: int = 1) -> bytes:
    """A DNG of a picture [H, W, 3], and behind it a JPEG `preview`."""
    data = formats.dng(pixels, orientation)
    return data if preview is None else data + formats.saved(preview, "JPEG", quality=95)


def light_of_ink(ink: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The sRGB levels [N, 3] that `ink_profile` gives for CMYK [N, 4]: paper and black are not white and black."""
    c, m, y, k = ink.astype(float).T / 255
    return np.stack([40 + 200 * (1 - each) * (1 - 0.9 * k) for each in (0.9 * c, 0.8 * m, 0.7 * y)], 1)


def ink_profile(grid: int = 9) -> bytes:
    """A CMYK profile, of one table from inks to Lab."""
    steps = np.linspace(0, 255, grid)
    inks = np.stack(np.meshgrid(*[steps] * 4, indexing="ij"), -1).reshape(-1, 4)
    v = light_of_ink(inks) / 255
    light = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
    x, y, z = (np.cbrt(light @ to_xyz.T / [0.9642, 1.0, 0.8249])).T  # no colour of these is dark enough for the line
    lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)
    table = np.round((lab + np.array([0, 128, 128])) * [652.8, 256, 256]).clip(0, 65535).astype(">u2").tobytes()
    identity = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    line = struct.pack(">HH", 0, 65535)
    lut = (
        b"mft2" + bytes([0, 0, 0, 0, 4, 3, grid, 0]) + identity + struct.pack(">HH", 2, 2) + line * 4 + table + line * 3
    )
    lut += bytes(-len(lut) % 4)
    tags = {b"A2B0": lut, b"wtpt": struct.pack(">4s4xIII", b"XYZ ", 63190, 65536, 54061)}
    at, head, data = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        head += struct.pack(">4sII", name, at + len(data), len(content))
        data += content
    start = struct.pack(
        ">I4sI4s4s4s12x4s24xIIII48x",
        at + len(data), b"", 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp", 1, 63190, 65536, 54061,
    )  # fmt: skip
    return start + struct.pack(">I", len(tags)) + head + data
