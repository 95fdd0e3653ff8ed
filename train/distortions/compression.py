"""Codecs: kinds 9 (JPEG 2000, OpenJPEG through Pillow) and 10 (JPEG, libjpeg-turbo through simplejpeg)."""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from PIL import Image
from torch import Tensor

from metaqap_fast.train.distortions.base import Draws, each


def jpeg2000_bytes(pixels: np.ndarray, ratio: float) -> bytes:
    """[H, W, 3] uint8 as a JPEG 2000 codestream of about 1/ratio of the raw size, irreversible 9-7 wavelet."""
    out = io.BytesIO()
    options = {"quality_mode": "rates", "quality_layers": [ratio], "irreversible": True, "no_jp2": True}
    Image.fromarray(pixels).save(out, "JPEG2000", **options)
    return out.getvalue()


def jpeg_bytes(pixels: np.ndarray, quality: float) -> bytes:
    """[H, W, 3] uint8 as a baseline JPEG with 4:2:0 chroma, the usual default."""
    encoded: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels), quality=int(quality), colorspace="RGB", colorsubsampling="420"
    )
    return encoded


def jpeg2000(x: Tensor, ratio: float, _: Draws) -> Tensor:
    """9: through JPEG 2000 at a compression ratio."""
    return each(lambda pixels: np.asarray(Image.open(io.BytesIO(jpeg2000_bytes(pixels, ratio)))), x)


def jpeg(x: Tensor, quality: float, _: Draws) -> Tensor:
    """10: through JPEG at a quality."""
    return each(lambda pixels: simplejpeg.decode_jpeg(jpeg_bytes(pixels, quality), colorspace="RGB"), x)
