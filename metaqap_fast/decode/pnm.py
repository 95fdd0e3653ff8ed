"""PBM, PGM and PPM, by numpy. Libraries differ in how they scale samples whose largest is neither 255 nor 65535."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.formats import Header
from metaqap_fast.formats.pnm import Layout, layout
from metaqap_fast.records import Pixels

_COMMENT = re.compile(rb"#[^\n]*")


def decode(data: memoryview, header: Header) -> Pixels:
    """See `PixelDecoder`: pixels [H, W, 3] uint8 RGB."""
    image = layout(data)
    samples = _samples(data[image.start :], image)
    samples = np.minimum(samples, image.largest)  # more is white, as viewers have it
    if image.bits:
        samples = 1 - samples
    if image.largest != 255:
        samples = (samples.astype(np.uint32) * 255 + image.largest // 2) // image.largest
    gray_or_rgb = samples.astype(np.uint8)
    return np.repeat(gray_or_rgb, 3, axis=2) if image.channels == 1 else gray_or_rgb


def _samples(body: memoryview, image: Layout) -> NDArray[Any]:
    """Numbers [H, W, channels]."""
    if not image.decimal and image.bits:  # rows are filled up to bytes
        packed = np.frombuffer(body, np.uint8, image.height * ((image.width + 7) // 8)).reshape(image.height, -1)
        return np.unpackbits(packed, axis=1)[:, : image.width, None]
    if not image.decimal:
        flat = np.frombuffer(body, np.uint8 if image.largest < 256 else np.dtype(">u2"), image.samples)
    else:
        text = _COMMENT.sub(b"", bytes(body))
        if image.bits:  # digits may touch
            flat = np.frombuffer(b"".join(text.split()), np.uint8, image.samples) - ord("0")
        else:
            flat = np.fromstring(text, np.uint32, image.samples, sep=" ")
    return flat.reshape(image.height, image.width, image.channels)
