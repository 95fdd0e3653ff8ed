"""RAW: which picture of a file is scored, by whichever maker, and what is no RAW."""

from __future__ import annotations

import io
import struct
import time
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from made import dng
from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats import raw, read_header

PICTURE = Image.effect_noise((1600, 1200), 40).convert("RGB")
PIXELS = np.asarray(PICTURE)


def jpeg(size: tuple[int, int], **options: object) -> bytes:
    out = io.BytesIO()
    PICTURE.resize(size).save(out, "JPEG", **options)
    return out.getvalue()


def directory(endian: str, tags: dict[int, int], magic: bytes = b"") -> bytes:
    """A TIFF header and one directory of numbers."""
    head = (b"II" if endian == "<" else b"MM") + struct.pack(endian + "HI", 42, 8)
    entries = b"".join(struct.pack(endian + "HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return (magic or head[:4]) + head[4:] + struct.pack(endian + "H", len(tags)) + entries + bytes(4)


def test_the_largest_preview_is_scored_and_said() -> None:
    header = read_header(dng(PIXELS, PICTURE) + jpeg((160, 120)))
    assert (header.format, header.decoder, header.width, header.height) == ("JPEG", "dali", 1600, 1200)
    assert header.note == "the camera's preview; the sensor has 1600x1200 pixels" and header.sensor == (1600, 1200)
    assert Image.open(io.BytesIO(b"".join(header.parts))).size == (1600, 1200)
    assert b"".join(header.parts)[-2:] == b"\xff\xd9"


@pytest.mark.parametrize(("size", "scored"), [((800, 600), True), ((798, 598), False), ((160, 120), False)])
def test_a_preview_of_less_than_half_the_sensor_is_a_thumbnail(size: tuple[int, int], scored: bool) -> None:
    header = read_header(dng(PIXELS, PICTURE.resize(size)))
    if scored:
        assert (header.width, header.height) == size
    else:
        assert header.decoder == "raw" and (header.width, header.height) == (1600, 1200) and not header.parts
        assert header.note == f"developed from the sensor, for its largest preview has {size[0]}x{size[1]} pixels"


def test_a_preview_of_1000_pixels_is_enough_for_any_sensor() -> None:
    tags = {256: 9000, 257: 6000, 262: 32803}
    for size, decoder in (((1500, 1000), "dali"), ((1498, 999), "raw")):
        assert read_header(directory("<", tags) + jpeg(size)).decoder == decoder


def test_without_a_preview() -> None:
    header = read_header(dng(PIXELS))
    assert header.note == "developed from the sensor, for it has no preview" and not header.defect
    assert raw.developed(header).note == "developed from the sensor"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_turned_once(orientation: int) -> None:
    """By the directory; by the preview's own EXIF where there is no directory, as in a RAF."""
    turned = read_header(dng(PIXELS, PICTURE, orientation))
    assert turned.orientation == orientation and turned.display_size == (
        (1200, 1600) if orientation > 4 else (1600, 1200)
    )
    exif = Image.Exif()
    exif[274] = orientation
    both = read_header(dng(PIXELS, None, orientation) + jpeg((1600, 1200), exif=exif))
    assert both.orientation == orientation
    fuji = b"FUJIFILMCCD-RAW ".ljust(92, b"\0") + struct.pack(">IIHHHH", 96, 1, 0x100, 4, 1200, 1600)
    alone = read_header(fuji + jpeg((1600, 1200), exif=exif))
    assert (alone.orientation, alone.sensor, alone.width) == (orientation, (1600, 1200), 1600)


@pytest.mark.parametrize(
    ("start", "endian"), [(b"IIRO", "<"), (b"IIRS", "<"), (b"MMOR", ">"), (b"II*\0", "<"), (b"MM\0*", ">")]
)
def test_makers_with_directories(start: bytes, endian: str) -> None:
    tags = {256: 1600, 257: 1200, 262: 32803, 274: 6}
    header = read_header(directory(endian, tags, start) + jpeg((1600, 1200)))
    assert (header.width, header.orientation, header.sensor) == (1600, 6, (1600, 1200))


def test_panasonic_and_canon() -> None:
    panasonic = directory("<", {2: 4000, 3: 3000}, b"IIU\0")
    assert read_header(panasonic + jpeg((1600, 1200))).sensor == (4000, 3000)
    cr2 = directory("<", {256: 1600, 257: 1200})
    cr2 = cr2[:4] + struct.pack("<I", 16) + b"CR\2\0" + bytes(4) + cr2[8:]
    assert read_header(cr2 + jpeg((1600, 1200))).note.startswith("the camera's preview")

    def box(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I4s", 8 + len(content), kind) + content

    tags = directory("<", {256: 6000, 257: 4000, 274: 8})
    moov = box(b"moov", box(b"uuid", raw._CANON + box(b"CNCV", b"x") + box(b"CMT1", tags)))
    cr3 = box(b"ftyp", b"crx \0\0\0\1") + moov + box(b"mdat", jpeg((160, 120)) + jpeg((1620, 1080)))
    header = read_header(cr3)
    assert (header.width, header.orientation, header.sensor) == (1620, 8, (6000, 4000))


def test_sensor_data_that_is_missing() -> None:
    data = dng(PIXELS)
    assert read_header(data[: len(data) - 4]).defect == f"truncated, {len(data) - 4} of {len(data)} bytes"


def test_lossless_jpegs_are_no_previews() -> None:
    """A sensor's data is often coded as one."""
    data = jpeg((1600, 1200))
    lossless = data.replace(b"\xff\xc0", b"\xff\xc3", 1)
    assert read_header(directory("<", {256: 1600, 257: 1200, 262: 32803}) + lossless).decoder == "raw"


def test_a_damaged_preview() -> None:
    data = directory("<", {256: 1600, 257: 1200, 262: 32803}) + jpeg((1600, 1200))
    assert "truncated" in read_header(data[:-2000]).defect


def test_a_tiff_is_no_raw() -> None:
    out = io.BytesIO()
    PICTURE.resize((64, 48)).save(out, "TIFF")
    assert read_header(out.getvalue()).format == "TIFF"


def test_nothing_in_it() -> None:
    with pytest.raises(ImageError, match="neither a preview nor the size of a sensor") as error:
        read_header(b"IIRO" + bytes(60))
    assert error.value.status == Status.corrupt


@pytest.mark.parametrize(
    "filling", [b"\xff\xd8\xff", b"\xff\xd8\xff\xe0\0\2", b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\3"]
)
def test_a_file_full_of_starts_takes_little_time(filling: bytes) -> None:
    data = directory("<", {256: 60_000, 257: 60_000, 262: 32803}) + filling * 500_000
    start = time.process_time()
    with suppress(ImageError):
        read_header(data)
    assert time.process_time() - start < 2


def test_directories_full_of_long_lists_take_little_time() -> None:
    """A thousand tags of a thousand numbers each, in each of 64 directories, all of which stand in the same bytes."""
    entries = b"".join(struct.pack("<HHII", tag, 4, 1 << 20, 8) for tag in (273, 279, 324, 325) * 256)
    ways = b"".join(struct.pack("<I", 8 + 64 * i) for i in range(64))
    data = b"IIRO\x08\0\0\0" + struct.pack("<HHHII", 1025, 330, 4, 64, 20_000) + entries
    data = data.ljust(20_000, b"\0") + ways + bytes(1 << 22)
    start = time.process_time()
    with suppress(ImageError):
        read_header(data)
    assert time.process_time() - start < 2


def test_directories_that_point_at_each_other_end() -> None:
    data = directory("<", {262: 32803, 256: 1600, 257: 1200, 330: 8, 34665: 8})
    assert read_header(data[:-4] + struct.pack("<I", 8) + jpeg((1600, 1200))).width == 1600
