"""What a camera wrote: the same from every container, and nothing from what is damaged."""

from __future__ import annotations

import io
import math
from dataclasses import astuple

import pytest
from PIL import Image
from PIL.ExifTags import IFD
from PIL.TiffImagePlugin import IFDRational

from images import encode
from metaqap_fast.decode import DecodeOptions, Limits, create
from metaqap_fast.formats.camera import details
from metaqap_fast.records import Details, Encoded

EXPECTED = Details("2024-05-01T12:30:05.250", "Canon EOS R5", "RF 24-70 f/2.8", 0.004, 2.8, 400.0, 35.0)


def noted() -> Image.Exif:
    exif = Image.Exif()
    exif[271], exif[272], exif[306] = "Canon", "Canon EOS R5\0  ", "2025:01:01 00:00:00"
    exif.get_ifd(IFD.Exif).update({
        33434: IFDRational(1, 250), 33437: IFDRational(28, 10), 34855: 400, 37386: IFDRational(35, 1),
        36867: "2024:05:01 12:30:05", 37521: "250", 42036: "RF 24-70 f/2.8",
    })  # fmt: skip
    return exif


def a_file(form: str, exif: Image.Exif) -> bytes:
    if form == "TIFF":  # Pillow writes no EXIF into one; its EXIF data is one
        return exif.tobytes().removeprefix(b"Exif\0\0")
    return encode(Image.new("RGB", (64, 64), "red"), form, exif=exif)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_container(form: str) -> None:
    assert details(a_file(form, noted())) == EXPECTED


def test_a_make_stands_before_a_model_that_does_not_say_it() -> None:
    exif = Image.Exif()
    exif[271], exif[272] = "SONY", "ILCE-7M4"
    assert details(a_file("JPEG", exif)).camera == "SONY ILCE-7M4"


@pytest.mark.parametrize(
    ("tag", "value", "field"),
    [
        (306, "0000:00:00 00:00:00", "date"),
        (306, "2024-05-01", "date"),
        (272, "\x1b[31m\n", "camera"),
    ],
)
def test_nonsense_is_nothing(tag: int, value: str, field: str) -> None:
    exif = Image.Exif()
    exif[tag] = value
    found = getattr(details(a_file("JPEG", exif)), field)
    assert found in ("", "[31m")


def test_a_ratio_with_zero_is_not_known() -> None:
    exif = Image.Exif()
    exif.get_ifd(IFD.Exif)[33434] = IFDRational(1, 0)
    assert math.isnan(details(a_file("JPEG", exif)).exposure)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_damaged_files_never_raise(form: str) -> None:
    whole = a_file(form, noted())
    for end in range(0, len(whole), 7):
        details(whole[:end])
    for at in range(0, min(len(whole), 600), 3):
        details(whole[:at] + b"\xff\xff" + whole[at + 2 :])
    assert all(map(_none, astuple(details(b""))))


def _none(value: object) -> bool:
    return value == "" or (isinstance(value, float) and math.isnan(value))


def test_through_the_supervised_decoder(photo: Image.Image) -> None:
    out = io.BytesIO()
    photo.save(out, "JPEG", exif=noted())
    files = [Encoded(b"", data) for data in (out.getvalue(), encode(photo, "JPEG"), b"none")]
    decoder = create(DecodeOptions(64, exif=True), limits=Limits())
    first, second, third = (found.details for found in decoder.stream(files))
    assert first == EXPECTED
    assert second is not None
    assert third is not None
    assert all(map(_none, astuple(second)))
    assert all(found.details is None for found in create(DecodeOptions(64), limits=Limits()).stream(files[:1]))
