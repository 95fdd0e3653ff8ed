"""How Pillow, OpenCV and libvips show a file: [H, W, 3] uint8 RGB, turned by EXIF, without alpha.

Pillow and libvips apply ICC profiles of RGB and gray files, OpenCV none.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np


def pillow(data: bytes) -> np.ndarray:
    from PIL import Image, ImageCms, ImageOps

    Image.MAX_IMAGE_PIXELS = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image: Any = Image.open(io.BytesIO(data))
        image.load()
        turned = ImageOps.exif_transpose(image)
        icc = image.info.get("icc_profile")
        if icc and turned.mode in ("RGB", "RGBA", "L", "P"):
            turned = turned.convert("RGB") if turned.mode in ("RGBA", "P") else turned
            with suppress(ImageCms.PyCMSError, OSError):
                profile, srgb = ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB")
                intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
                turned = ImageCms.profileToProfile(turned, profile, srgb, intent, "RGB") or turned
    if turned.mode.startswith("I"):
        return _rgb(np.asarray(turned) >> 8)
    if turned.mode == "F":
        raise ValueError("fractions")
    return np.array(turned.convert("RGB"))


def opencv(data: bytes) -> np.ndarray:
    import cv2

    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError("cannot be decoded")
    return np.ascontiguousarray(image[:, :, ::-1])


def libvips(data: bytes) -> np.ndarray:
    import pyvips

    image: Any = pyvips.Image.new_from_buffer(data, "", fail_on="error").autorot()
    if image.format in ("float", "double", "complex"):
        raise ValueError("fractions")
    if image.get_typeof("icc-profile-data") and image.interpretation in ("srgb", "b-w") and image.format == "uchar":
        colours = image.extract_band(0, n=image.bands - image.hasalpha())
        with suppress(pyvips.Error):
            image = colours.icc_transform("srgb", embedded=True, intent="relative").copy_memory()
    bands = image.bands - image.hasalpha()
    if image.interpretation in ("cmyk", "lab", "labs", "labq", "xyz", "scrgb", "hsv", "yxy"):
        image = image.colourspace("srgb")
        bands = image.bands - image.hasalpha()
    pixels = image.numpy()
    pixels = pixels.reshape(image.height, image.width, -1)[:, :, :bands]
    if pixels.dtype == np.uint16:
        pixels = pixels >> 8
    return _rgb(pixels[:, :, 0] if bands < 3 else pixels[:, :, :3])


def _rgb(pixels: np.ndarray) -> np.ndarray:
    pixels = pixels.clip(0, 255).astype(np.uint8)
    return np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else np.ascontiguousarray(pixels)


VIEWERS: dict[str, Callable[[bytes], np.ndarray]] = {"pillow": pillow, "opencv": opencv, "libvips": libvips}


def shown(data: bytes, max_pixels: int) -> dict[str, np.ndarray | str]:
    """What each viewer makes of a file: pixels, or why there are none."""
    found: dict[str, np.ndarray | str] = {}
    for name, view in VIEWERS.items():
        try:
            pixels = view(data)
            found[name] = pixels if pixels.shape[0] * pixels.shape[1] <= max_pixels else "too large"
        except Exception as error:  # noqa: BLE001 -- whatever a library says of a file
            found[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return found
