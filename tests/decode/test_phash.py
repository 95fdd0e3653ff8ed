"""The perceptual hash, beside imagehash's."""

from __future__ import annotations

import imagehash
import numpy as np
import pytest
from PIL import Image
from skimage import data

from images import encode
from metaqap_fast.decode import DecodeOptions, Limits, create
from metaqap_fast.decode.phash import phash, thinned
from metaqap_fast.records import Encoded

PHOTOGRAPHS = ["astronaut", "chelsea", "coffee", "rocket"]


def theirs(pixels: np.ndarray) -> int:
    return int(str(imagehash.phash(Image.fromarray(pixels))), 16)


def distance(one: int, other: int) -> int:
    return (one ^ other).bit_count()


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_is_imagehash_s_phash(name: str) -> None:
    pixels = getattr(data, name)()
    assert phash(pixels) == theirs(thinned(pixels))
    assert distance(phash(pixels), theirs(pixels)) <= 6
    assert phash(pixels[::5, ::5]) == theirs(pixels[::5, ::5])  # small ones are taken whole


def test_tells_copies_from_other_images() -> None:
    images = {name: np.asarray(getattr(data, name)()) for name in PHOTOGRAPHS}
    hashes = {name: phash(pixels) for name, pixels in images.items()}
    for name, pixels in images.items():
        height, width = pixels.shape[:2]
        small = np.asarray(Image.fromarray(pixels).resize((width // 2, height // 2)))
        bright = np.clip(pixels * 1.2, 0, 255).astype(np.uint8)
        assert distance(hashes[name], phash(small)) <= 6
        assert distance(hashes[name], phash(bright)) <= 8
        assert min(distance(hashes[name], code) for other, code in hashes.items() if other != name) > 16


def test_any_memory_layout_gives_the_same_hash() -> None:
    pixels = np.asarray(data.chelsea())
    turned = np.flip(pixels.swapaxes(0, 1), (0, 1))
    assert phash(turned) == phash(np.ascontiguousarray(turned))


@pytest.mark.parametrize("level", [0, 77, 255])
def test_plain_images_have_one_hash(level: int) -> None:
    hashes = {phash(np.full((*shape, 3), level, np.uint8)) for shape in ((1, 1), (64, 64), (512, 700))}
    assert len(hashes) == 1
    assert 0 not in hashes


def test_the_decoder_makes_it_of_the_upright_image(photo: Image.Image) -> None:
    upright = encode(photo, "PNG")
    exif = Image.Exif()
    exif[274] = 6
    turned = encode(photo.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    files = [Encoded(b"", data) for data in (upright, turned, b"no image")]
    one, other, none = (found.hash for found in create(DecodeOptions(128), limits=Limits()).stream(files))
    assert one == other
    assert distance(one, theirs(np.asarray(photo.convert("RGB")))) <= 6
    assert none == 0
