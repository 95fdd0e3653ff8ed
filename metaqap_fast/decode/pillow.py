"""Pillow, for what DALI does not read or reads otherwise than viewers do: one file at a time."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from metaqap_fast.decode.colour import colours
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
    "JPEG 2000": "JPEG2000",
    "GIF": "GIF",
    "AVIF": "AVIF",
    "HEIC": "AVIF",  # a HEIF file that is coded as AVIF is, under another brand
}


def decode(data: memoryview, header: Header) -> Pixels:
    """See `PixelDecoder`: the file's first picture, without its alpha."""
    with opened(data, header) as image:
        found = colours(header.icc)
        if image.mode == found.mode == "CMYK":
            return found.apply(np.asarray(image))
        return rgb(image)


def gray(data: memoryview, header: Header) -> Pixels:
    """A gray file's pixels [H, W]."""
    with opened(data, header) as image:
        if image.mode != "L":
            raise ValueError(f"gray pixels of mode {image.mode}")
        return np.array(image)


@contextmanager
def opened(data: memoryview, header: Header) -> Iterator[Image.Image]:
    """The file, whose size is compared with the header's before it is decoded, or room made for it.

    Raises:
        ImageError: another size; or what its structure is said to be, Pillow cannot make sense of.
    """
    from PIL import Image, TiffImagePlugin, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = None  # the header rule has its own limit
    TiffImagePlugin.READ_LIBTIFF = True  # also what is not compressed, which Pillow's own code reads otherwise
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a row says it, or it is nothing
        try:
            image = Image.open(io.BytesIO(data), formats=[PLUGINS[header.format]])
        except UnidentifiedImageError:
            raise ImageError(Status.unsupported, f"{header.format} of this kind is not supported") from None
        with image:
            if image.size != (header.width, header.height):
                raise differs((header.width, header.height), image.size)
            image.decodermaxblock = len(data)  # in one piece: libjpeg's arithmetic decoder cannot wait for more
            yield image


def decode_whole(data: memoryview, header: Header) -> Pixels:
    """A JPEG whose image data ends with bytes that may be padding: they are if it looks the same with others there."""
    pixels = decode(data, header)
    longer = b"".join((data[:-2], b"\0\x5a\xa5" * 2000, data[-2:]))
    if not np.array_equal(pixels, decode(memoryview(longer), header)):
        raise ImageError(Status.corrupt, "JPEG: a run of zeros in the image data")
    return pixels


def rgb(image: Image.Image) -> Pixels:
    """An image's pixels [H, W, 3] uint8 RGB, whatever its mode; alpha is left out, 16 bits become 8.

    Raises:
        ImageError: `unsupported`, a mode that has no range.
    """
    image.load()
    if image.mode.startswith("I"):  # 16 bits
        gray = ((np.asarray(image).clip(0, 65535).astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ImageError(Status.unsupported, "samples are floating-point numbers, whose range is not defined")
    straight: dict[str, Any] = {"RGBa": "RGBA", "La": "LA"}  # colours that were multiplied by their alpha
    if image.mode in straight:
        image = image.convert(straight[image.mode])
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))
