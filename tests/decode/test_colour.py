"""Colours as shown: profiles become sRGB, sRGB's own profiles change nothing, broken ones are passed over and said."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageCms

import corpus
from images import encode
from made import heic, ink_profile, light_of_ink
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


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIC"])
def test_from_a_file_to_its_pixels(form: str) -> None:
    written = Image.fromarray(back(P3, PICTURE))
    exact = {"JPEG": {"quality": 100, "subsampling": 0}, "AVIF": {"quality": 100, "subsampling": "4:4:4"},
             "WEBP": {"lossless": True}}.get(form, {})  # fmt: skip
    data = heic(written, icc_profile=P3) if form == "HEIC" else encode(written, form, icc_profile=P3, **exact)
    assert np.abs(decoded(data).astype(int) - PICTURE).mean() < 1.2


def decoded(data: bytes) -> Pixels:
    (result,) = LocalDecoder(DecodeOptions(S)).stream([Encoded(b"", data)])
    assert result.error is None, result.error
    return result.views[0]


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_inks_by_their_profile(form: str) -> None:
    """Without one, ink becomes light by the plainest of formulas."""
    inks = np.repeat(np.repeat(RNG.integers(0, 256, (S // 8, S // 8, 4)).astype(np.uint8), 8, 0), 8, 1)
    expected = light_of_ink(inks.reshape(-1, 4)).reshape(S, S, 3)
    image = Image.fromarray(inks, "CMYK")
    options = {"quality": 100, "subsampling": 0} if form == "JPEG" else {}
    assert np.abs(decoded(encode(image, form, icc_profile=ink_profile(), **options)) - expected).mean() < 1.5
    assert np.abs(decoded(encode(image, form, **options)) - expected).mean() > 10


def test_pngs_own_words_for_colours() -> None:
    light = PICTURE / 255
    linear = (255 * np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4) + 0.5).astype(np.uint8)
    data = encode(Image.fromarray(linear), "PNG")
    at = data.index(b"IDAT") - 4
    gamma = data[:at] + corpus.chunk(b"gAMA", (100_000).to_bytes(4, "big")) + data[at:]
    assert np.abs(decoded(gamma).astype(int) - PICTURE).mean() < 2  # eight bits are few for light
    p3 = encode(Image.fromarray(back(P3, PICTURE)), "PNG")
    at = p3.index(b"IDAT") - 4
    assert (
        np.abs(decoded(p3[:at] + corpus.chunk(b"cICP", bytes([12, 13, 0, 1])) + p3[at:]) - PICTURE.astype(int)).max()
        <= 4
    )


def test_a_huge_profile_is_not_read() -> None:
    assert colours(P3 + bytes(5 << 20)).note == BROKEN


def test_a_profile_whose_white_is_not_white_is_damaged() -> None:
    """As JasPer writes into JPEG 2000 files: the right length, and a matrix of zeros."""
    at = P3.index(b"rXYZ")
    place = int.from_bytes(P3[at + 4 : at + 8], "big")
    assert colours(P3[: place + 8] + bytes(12) + P3[place + 20 :]).note == BROKEN
