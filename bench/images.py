"""The images that are timed: those of a folder, or generated ones of any size."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.errors import UsageError
from metaqap_fast.input.files import File, Listing

SIZES = ("512x512", "1024x768", "4000x3000")
QUALITY = 90
DIFFERENT_PIXELS = 12_000_000  # of one size that are generated; more names are links to the same files
DIFFERENT = 16  # files of one size, at most


def load_rgb(path: bytes) -> NDArray[np.uint8]:
    """Pixels of a file [H, W, 3] as displayed, by Pillow."""
    from PIL import Image, ImageOps

    return np.array(ImageOps.exif_transpose(Image.open(os.fsdecode(path))).convert("RGB"))


class First(Listing):
    """The first images of a listing."""

    def __init__(self, sources: Sequence[str], count: int | None) -> None:
        super().__init__(sources)
        self.entries = list(islice(self.files(), count))

    def __iter__(self) -> Iterator[File]:
        return iter(self.entries)


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of "512x512".

    Raises:
        UsageError: it is no size.
    """
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None or min(map(int, match.groups())) < 16:
        raise UsageError(f"{text!r} is not a size such as 512x512, of at least 16 pixels")
    return int(match[1]), int(match[2])


def describe(sources: Sequence[str], count: int | None) -> dict[str, Any]:
    """Number, bytes and a digest of names and sizes; nothing that names a folder.

    Raises:
        UsageError: there is no image.
    """
    listing = First(sources, count)
    if not listing.entries:
        raise UsageError(f"no image found in {', '.join(sources)}")
    digest, total = hashlib.sha256(), 0
    for entry in listing.entries:
        size = os.stat(entry.path).st_size
        digest.update(b"%s %d\n" % (os.path.basename(entry.key), size))
        total += size
    return {"images": len(listing.entries), "bytes": total, "names_and_sizes": digest.hexdigest()}


def photograph(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """[height, width, 3] with the spectrum of photographs (amplitude 1/f) and a little grain."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]).astype(np.float32)
    frequency[0, 0] = 1 / max(width, height)
    planes = np.empty((3, height, width), np.float32)
    for plane in planes:
        noise = random.standard_normal((2, *frequency.shape), np.float32)
        plane[:] = np.fft.irfft2((noise[0] + 1j * noise[1]) / frequency**1.3, s=(height, width))
    planes = (planes - planes.mean((1, 2), keepdims=True)) / planes.std((1, 2), keepdims=True)
    planes = 120 + 45 * (planes[:1] + 0.3 * planes) + random.normal(0, 2, planes.shape)
    return np.ascontiguousarray(planes.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def generate(folder: Path, size: str, count: int) -> Path:
    """A folder of `count` JPEGs of one size, the same ones for the same arguments.

    Raises:
        UsageError: no image is asked for, or no size is given.
        ModuleNotFoundError: simplejpeg is missing.
    """
    import simplejpeg

    width, height = parse_size(size)
    if count < 1:
        raise UsageError(f"{count} images: at least 1")
    out = folder / size
    out.mkdir(parents=True)
    different = min(count, DIFFERENT, max(2, DIFFERENT_PIXELS // (width * height)))
    pixels = photograph(width, height, 0)
    for i in range(different):  # shifted around the edges, which the spectrum's periodicity does not show
        moved = np.ascontiguousarray(np.roll(pixels, (i * height // different, i * width // different), (0, 1)))
        (out / f"{i:06d}.jpg").write_bytes(simplejpeg.encode_jpeg(moved, quality=QUALITY))
    for i in range(different, count):
        os.link(out / f"{i % different:06d}.jpg", out / f"{i:06d}.jpg")
    return out
