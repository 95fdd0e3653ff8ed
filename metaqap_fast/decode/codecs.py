"""JPEG XL, and JPEG in 12 bits or lossless, by imagecodecs (libjxl, libjpeg-turbo)."""

from __future__ import annotations

from typing import Any

import numpy as np

from metaqap_fast.decode.extra import library
from metaqap_fast.formats import Header
from metaqap_fast.records import Pixels


def decode(data: memoryview, header: Header) -> Pixels:
    """See `PixelDecoder`: the first frame; alpha is left out."""
    return rgb(_samples(data, header))


def decode_linear(data: memoryview, header: Header) -> Pixels:
    """The same for samples that are light as it is, which get sRGB's curve."""
    light = _fractions(_samples(data, header)).clip(0, 1)
    return rgb(np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055))


def _samples(data: memoryview, header: Header) -> Any:
    """[H, W] or [H, W, C] of 8 or 16 bits, or fractions of 1."""
    codecs = library("imagecodecs", header.format)
    if header.format == "JPEG XL":
        samples = codecs.jpegxl_decode(data, index=0, keeporientation=True, numthreads=1)
    else:
        samples = codecs.jpeg8_decode(data)
    if header.depth not in (0, 8, 16):  # they are as large as they were, and not over the whole range
        samples = (samples.astype(np.uint32) * 65535 // ((1 << header.depth) - 1)).clip(0, 65535).astype(np.uint16)
    if header.premultiplied and samples.ndim == 3 and samples.shape[2] in (2, 4):
        parts = _fractions(samples)
        return np.divide(parts[:, :, :-1], parts[:, :, -1:], where=parts[:, :, -1:] > 0, out=parts[:, :, :-1].copy())
    return samples


def rgb(samples: Any) -> Pixels:
    """Samples [H, W] or [H, W, C] of 8 or 16 bits, or fractions of 1, as [H, W, 3] uint8."""
    if samples.ndim == 2:
        samples = samples[:, :, None]
    samples = samples[:, :, :3] if samples.shape[2] >= 3 else np.repeat(samples[:, :, :1], 3, axis=2)
    if samples.dtype == np.uint8:
        return np.ascontiguousarray(samples)
    return np.asarray((_fractions(samples) * 255 + 0.5).clip(0, 255).astype(np.uint8))


def _fractions(samples: Any) -> Any:
    """Of 1, float32; what is no number is 0."""
    if samples.dtype.kind == "f":
        return np.nan_to_num(samples.astype(np.float32))
    return samples.astype(np.float32) / np.float32(np.iinfo(samples.dtype).max)
