"""Images as bytes, and the distortions that lower their quality."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageFilter


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def crop(image: Image.Image) -> Image.Image:
    """The middle square, at most 512 pixels."""
    side = min(*image.size, 512)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.convert("RGB").crop((left, top, left + side, top + side))


def blur(image: Image.Image, sigma: float) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(sigma)) if sigma else image


def noise(image: Image.Image, sigma: float) -> Image.Image:
    pixels = np.asarray(image, np.float64)
    noisy = pixels + np.random.default_rng(0).normal(0, sigma, pixels.shape) if sigma else pixels
    return Image.fromarray(np.clip(noisy.round(), 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, quality: float) -> Image.Image:
    return Image.open(io.BytesIO(encode(image, "JPEG", quality=int(quality)))).convert("RGB")
