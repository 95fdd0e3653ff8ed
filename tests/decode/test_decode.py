"""Decoding: pixels as Pillow sees them, and a bad image that costs only itself."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageOps

from images import encode
from metaqap_fast.decode import DecodeOptions, create
from metaqap_fast.decode.dali import Dali
from metaqap_fast.decode.local import LocalDecoder
from metaqap_fast.decode.views import turned
from metaqap_fast.errors import Status
from metaqap_fast.formats import Header, read_header
from metaqap_fast.records import Decoded, Encoded

S = 64


def decode(*images: bytes, **options: object) -> list[Decoded]:
    decoder = create(DecodeOptions(S, **options))  # type: ignore[arg-type]
    return list(decoder.stream(Encoded(b"%d" % i, data) for i, data in enumerate(images)))


@pytest.fixture(scope="module")
def square(photo: Image.Image) -> Image.Image:
    return photo.crop((200, 100, 200 + S, 100 + S))


@pytest.mark.parametrize(
    ("mode", "form", "options", "tolerance"),
    [
        ("RGB", "PNG", {}, 0),
        ("L", "PNG", {}, 0),
        ("P", "PNG", {}, 0),
        ("RGBA", "PNG", {}, 0),
        ("I;16", "PNG", {}, 1),
        ("RGB", "BMP", {}, 0),
        ("L", "BMP", {}, 0),
        ("RGB", "PPM", {}, 0),
        ("RGB", "TIFF", {}, 0),
        ("RGB", "TIFF", {"compression": "tiff_lzw"}, 0),
        ("RGB", "WEBP", {"lossless": True}, 0),
        ("RGB", "WEBP", {"quality": 80}, 2),
        ("RGB", "JPEG2000", {}, 0),
        ("RGB", "JPEG", {"quality": 90}, 2),
        ("RGB", "JPEG", {"quality": 60, "progressive": True}, 2),
        ("L", "JPEG", {}, 2),
        ("CMYK", "JPEG", {"quality": 95}, 3),
        ("RGB", "MPO", {}, 2),
    ],
)
def test_formats_agree_with_pillow(
    square: Image.Image, mode: str, form: str, options: dict[str, object], tolerance: int
) -> None:
    image = (
        square.convert(mode) if mode != "I;16" else Image.fromarray(np.asarray(square.convert("L"), np.uint16) * 257)
    )
    data = encode(image, form, **options)
    (result,) = decode(data)
    assert result.error is None and (result.width, result.height) == (S, S)
    expected: Image.Image = Image.open(io.BytesIO(data))
    expected = square.convert("L").convert("RGB") if mode == "I;16" else expected.convert("RGB")
    difference = np.abs(result.views[0].astype(int) - np.asarray(expected).astype(int))
    assert difference.mean() <= tolerance


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(photo: Image.Image, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    data = encode(photo.crop((0, 0, S, 2 * S)), "JPEG", quality=95, exif=exif)
    (result,) = decode(data)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert (result.height, result.width) == expected.shape[:2]
    first = expected[:S, :S].astype(int)
    assert np.abs(result.views[0].astype(int) - first).mean() < 2


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_an_image_is_turned_after_it_is_resized(photo: Image.Image, form: str) -> None:
    """So a turned photograph has exactly the pixels of the upright one, turned, and no decoder reads EXIF."""
    upright = photo.crop((0, 0, 300, 200))
    (plain,) = decode(encode(upright, form))
    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[274] = orientation
        (result,) = decode(encode(upright, form, exif=exif))
        assert (result.width, result.height) == ((200, 300) if orientation >= 5 else (300, 200))
        assert len(plain.views) == len(result.views) == 2  # of 96x64
        for i, view in enumerate(plain.views):
            there = i if orientation in (4, 5, 6) else 1 - i
            assert np.array_equal(turned(view, orientation), result.views[there])


def test_resize_is_antialiased_like_pillow(photo: Image.Image) -> None:
    (result,) = decode(encode(photo, "PNG"))
    expected = np.asarray(photo.resize((S, S), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(result.views[0].astype(int) - expected).mean() < 1
    aliased = np.asarray(photo)[:: 512 // S, :: 512 // S].astype(int)
    assert np.abs(aliased - expected).mean() > 5  # the test would see a resize without antialiasing


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_a_bad_image_costs_only_itself(photo: Image.Image, square: Image.Image, batch_size: int) -> None:
    good = encode(square, "PNG")
    cut = encode(photo, "JPEG")[:3000]
    damaged = bytearray(encode(photo, "PNG"))
    damaged[5000:5200] = bytes(200)
    results = decode(good, cut, good, b"text", good, bytes(damaged), b"", good, batch_size=batch_size)
    assert [result.key for result in results] == [b"%d" % i for i in range(8)]
    statuses = [result.error.status if result.error else Status.ok for result in results]
    ok, corrupt = Status.ok, Status.corrupt
    assert statuses == [ok, corrupt, ok, Status.unsupported, ok, corrupt, corrupt, ok]
    for i in (0, 2, 4, 7):
        assert np.array_equal(results[i].views[0], np.asarray(square))


def test_views_are_their_own_unless_they_are_borrowed(square: Image.Image) -> None:
    """DALI promises its memory until the next batch; a borrowed view of an image that fills it is that memory."""
    shown = [square if i % 2 else ImageOps.invert(square) for i in range(8)]
    images = [Encoded(b"%d" % i, encode(image, "PNG")) for i, image in enumerate(shown)]
    for borrow in (False, True):
        for one, image in zip(
            LocalDecoder(DecodeOptions(S, batch_size=1), borrow=borrow).stream(images), shown, strict=True
        ):
            assert (one.views.base is None) == (not borrow)
            assert (one.views[0] == np.asarray(image)).all()


def test_limits_come_before_decoding(square: Image.Image) -> None:
    lying = bytearray(encode(square, "PNG"))
    lying[16:24] = (60_000).to_bytes(4, "big") * 2
    (huge,) = decode(bytes(lying))
    assert huge.error is not None and huge.error.status == Status.too_large
    assert (huge.width, huge.height) == (60_000, 60_000)
    (over,) = decode(encode(square, "PNG"), max_pixels=S * S - 1)
    assert over.error is not None and over.error.status == Status.too_large
    (at,) = decode(encode(square, "PNG"), max_pixels=S * S)
    assert at.error is None


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_header_that_lies_is_not_believed(square: Image.Image, place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a decoder makes of a file: other pixels than were announced are not scored."""
    images = [encode(square, "PNG"), encode(square, "BMP"), encode(square, "JPEG", quality=95)]

    def lie(data: bytes) -> Header:
        header = read_header(data)
        return replace(header, width=S + 1) if data == images[place] else header

    monkeypatch.setattr("metaqap_fast.decode.local.read_header", lie)
    results = decode(*images)
    for i, result in enumerate(results):
        assert (result.error is not None and result.error.status == Status.corrupt) == (i == place)
        assert len(result.views) == (i != place)
        assert i != place or "the header says 65x64 pixels, the decoded image has 64x64" in str(result.error)


def test_large_images_share_no_batch(photo: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaqap_fast.decode.local.BATCH_PIXELS", 512 * 512 * 2)
    seen: list[int] = []
    real = Dali.run
    monkeypatch.setattr(Dali, "run", lambda self, jobs, *sizes: seen.append(len(jobs)) or real(self, jobs, *sizes))
    assert len(decode(*[encode(photo, "JPEG")] * 5, batch_size=16)) == 5
    assert seen == [2, 2, 1]


def test_arrays_are_resized_as_files_are(photo: Image.Image) -> None:
    decoder = create(DecodeOptions(S))
    (array,) = decoder.stream_arrays([(b"0", np.asarray(photo))])
    (file,) = decoder.stream([Encoded(b"0", encode(photo, "PNG"))])
    assert np.array_equal(array.views, file.views)


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1), (3, 700)])
def test_extreme_shapes_are_scored(size: tuple[int, int]) -> None:
    (result,) = decode(encode(Image.new("RGB", size, (10, 200, 30)), "PNG"))
    assert result.error is None
    assert np.array_equal(np.unique(result.views.reshape(-1, 3), axis=0), [[10, 200, 30]])
