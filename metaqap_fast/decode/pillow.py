"""Pillow, for what DALI does not read or reads otherwise than viewers do: one file at a time."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats import Header
from metaqap_fast.formats.format import differs
from metaqap_fast.records import Pixels

if TYPE_CHECKING:
    from PIL import Image

# Our names of formats and Pillow's: a file is only given to the plugin of the format that its structure was checked as.
PLUGINS = {
    "JPEG": "JPEG",
    "PNG": "PNG",
    "WebP": "WEBP",
    "TIFF": "TIFF",
    "BMP": "BMP",
    "PNM": "PPM",
    "JPEG 2000": "JPEG2000",
    "GIF": "GIF",
    "AVIF": "AVIF",
    "HEIC": "AVIF",  # a HEIF file that is coded as AVIF is, under another brand
}


def decode(data: memoryview, header: Header) -> Pixels:
    """See `PixelDecoder`: the file's first picture, without its alpha."""
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = None  # the header rule has its own limit, and Pillow's size is compared before it decodes
    plugin = PLUGINS[header.format]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a row says or does not say
        try:
            image = Image.open(io.BytesIO(data), formats=[plugin])
        except UnidentifiedImageError:
            raise ImageError(Status.corrupt, f"{header.format}: damaged header") from None
        with image:
            if image.size != (header.width, header.height):  # compared before it decodes, or makes room
                raise differs((header.width, header.height), image.size)
            return rgb(image)


def rgb(image: Image.Image) -> Pixels:
    """An image's pixels [H, W, 3] uint8 RGB, whatever its mode; alpha is left out, 16 bits become 8.

    Raises:
        ImageError: `unsupported`, a mode that has no range.
    """
    image.load()
    if image.mode.startswith("I"):  # 16 bits
        gray = (np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ImageError(Status.unsupported, "samples that are fractions have no range that viewers agree on")
    straight: dict[str, Any] = {"RGBa": "RGBA", "La": "LA"}  # colours that were multiplied by their alpha
    if image.mode in straight:
        image = image.convert(straight[image.mode])
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))
