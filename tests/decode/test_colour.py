"""Colours as shown: profiles become sRGB, sRGB's own profiles change nothing, broken ones are passed over and said."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageCms

from images import encode
from metaqap_fast.decode import DecodeOptions
from metaqap_fast.decode.colour import BROKEN, NONE, colours
from metaqap_fast.decode.local import Job, LocalDecoder
from metaqap_fast.formats import Header
from metaqap_fast.formats.icc import SRGB, from_cicp, profile
from metaqap_fast.records import Encoded, Pixels

S = 64
P3 = from_cicp(12, 13)
ADOBE = profile(((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), SRGB[3]), 563 / 256)
PROPHOTO = profile(((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001), (0.3457, 0.3585)), 1.8)
SRGBS = {
    "LittleCMS's": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    "by its numbers": profile(SRGB, 0.0),
    "with a little noise": profile(((0.6401, 0.3299), *SRGB[1:]), 0.0),
}
RNG = np.random.default_rng(3)
PICTURE: Pixels = RNG.integers(60, 200, (S, S, 3)).astype(np.uint8)


def shown(pixels: Pixels, icc: bytes) -> Pixels:
    return colours(icc).rgb(pixels)


def decode(icc: bytes, pixels: Pixels) -> Pixels:
    """As the pipeline does: DALI's pixels of a job that has this profile."""
    job = Job(b"", 0, S, S, pixels, Header(S, S, icc=icc))
    (result,) = LocalDecoder(DecodeOptions(S))._decode([job])
    assert result.error is None
    return result.views[0]


def back(icc: bytes, pixels: Pixels) -> Pixels:
    """sRGB pixels in another space: what a camera with it would have written."""
    source, target = ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(_file(icc))
    image = ImageCms.profileToProfile(Image.fromarray(pixels), source, target, ImageCms.Intent.RELATIVE_COLORIMETRIC)
    assert image is not None
    return np.asarray(image)


def _file(icc: bytes) -> object:
    import io

    return io.BytesIO(icc)


@pytest.mark.parametrize("icc", [P3, ADOBE, PROPHOTO], ids=["P3", "Adobe RGB", "ProPhoto"])
def test_the_same_colours_give_the_same_pixels(icc: bytes) -> None:
    """However they are written: the score of a picture is that of what one sees."""
    written = back(icc, PICTURE)
    assert np.abs(written.astype(int) - PICTURE).mean() > 3
    again = decode(icc, written)
    assert np.abs(again.astype(int) - PICTURE).mean() < 1 and np.abs(again.astype(int) - PICTURE).max() <= 4


@pytest.mark.parametrize("name", SRGBS)
def test_srgb_keeps_its_exact_pixels(name: str) -> None:
    assert colours(SRGBS[name]) is NONE
    assert np.array_equal(decode(SRGBS[name], PICTURE), PICTURE)


def test_a_profile_called_srgb_that_is_not_is_applied() -> None:
    assert b"sRGB" not in P3
    assert colours(P3.replace(b"para", b"para")).transform is not None


@pytest.mark.parametrize(
    "icc",
    [
        b"x",
        bytes(3000),
        P3[:200],
        P3[:-1],
        P3[:16] + b"Lab " + P3[20:],
        P3[:16] + b"GRAY" + P3[20:],
        P3.replace(b"rXYZ", b"rxyz"),
    ],
)
def test_a_broken_profile_is_ignored_and_said(icc: bytes) -> None:
    job = Job(b"", 0, S, S, PICTURE, Header(S, S, icc=icc, note="the first of 2 pictures"))
    (result,) = LocalDecoder(DecodeOptions(S))._decode([job])
    assert np.array_equal(result.views[0], PICTURE)
    assert result.note == f"the first of 2 pictures; {BROKEN}"


def gray_profile(gamma: float) -> bytes:
    """An RGB profile's curve, as a gray one."""
    icc = bytearray(profile(SRGB, gamma))
    icc[16:20] = b"GRAY"
    return bytes(icc).replace(b"rTRC", b"kTRC")


def test_gray_profiles() -> None:
    gray = np.repeat(PICTURE[:, :, :1], 3, axis=2)
    found = shown(gray, gray_profile(1.0)).astype(int)
    linear = gray[:, :, 0] / 255
    expected = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(found - expected[:, :, None]).max() < 2
    assert np.array_equal(shown(PICTURE, gray_profile(1.0)), PICTURE)  # it does not belong to a colour picture


def test_it_is_applied_before_the_picture_is_turned_and_after_it_is_resized() -> None:
    pixels = np.repeat(np.repeat(PICTURE[:, : S // 2], 2, 0), 2, 1)
    job = Job(b"", 0, 2 * S, S, pixels, Header(S, 2 * S, 6, icc=P3))
    (result,) = LocalDecoder(DecodeOptions(S))._decode([job])
    assert result.error is None and result.views.shape[1:] == (S, S, 3)


@pytest.mark.parametrize("form", ["AVIF", "HEIC"])
def test_from_a_file_to_its_pixels(form: str) -> None:
    from made import heic

    written = Image.fromarray(back(P3, PICTURE))
    if form == "HEIC":
        data = heic(written, icc_profile=P3)
    else:
        data = encode(written, form, quality=100, subsampling="4:4:4", icc_profile=P3)
    (result,) = LocalDecoder(DecodeOptions(S)).stream([Encoded(b"", data)])
    assert result.error is None
    assert np.abs(result.views[0].astype(int) - PICTURE).mean() < 1.2
