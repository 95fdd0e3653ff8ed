"""The header rule: format, size and orientation of every supported format, and the status of everything else."""

from __future__ import annotations

import re
import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from images import encode
from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats import read_header
from metaqap_fast.formats.scan import by_python, scanned

IMAGE = Image.effect_noise((37, 53), 60).convert("RGB")
ENCODED = {
    "jpeg": encode(IMAGE, "JPEG"),
    "jpeg progressive": encode(IMAGE, "JPEG", progressive=True),
    "jpeg mpo": encode(IMAGE, "MPO"),
    "png": encode(IMAGE, "PNG"),
    "webp": encode(IMAGE, "WEBP"),
    "webp lossless": encode(IMAGE, "WEBP", lossless=True),
    "webp extended": encode(IMAGE.convert("RGBA"), "WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
    "tiff": encode(IMAGE, "TIFF"),
    "tiff lzw": encode(IMAGE, "TIFF", compression="tiff_lzw"),
    "bmp": encode(IMAGE, "BMP"),
    "pnm": encode(IMAGE, "PPM"),
    "jpeg2000": encode(IMAGE, "JPEG2000"),
}


@pytest.mark.parametrize("name", ENCODED)
def test_size_of_every_format(name: str) -> None:
    header = read_header(ENCODED[name])
    assert header.format.lower().replace(" ", "") == name.split()[0]
    others = {"tiff": "tiff", "bmp": "bmp", "pnm": "pnm", "jpeg2000": "pillow"}
    assert (header.width, header.height, header.decoder) == (37, 53, others.get(name.split()[0], "dali"))
    assert header.orientation == 1 and not header.defect


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    options = {"tiffinfo": {274: orientation}} if form == "TIFF" else {"exif": exif}
    header = read_header(encode(IMAGE, form, **options))
    assert header.orientation == orientation
    assert header.display_size == ((53, 37) if orientation >= 5 else (37, 53))


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", Status.corrupt),
        (b"hello world, this is text", Status.unsupported),
        (encode(IMAGE, "GIF")[:9], Status.corrupt),
        (b"\0\0\0\x18ftypheic\0\0\0\0", Status.corrupt),
        (b"\0\0\0\x18ftypavif\0\0\0\0", Status.corrupt),
        (b"\xff\xd8\xff", Status.corrupt),
        (ENCODED["jpeg"][:100], Status.corrupt),
        (ENCODED["png"][:20], Status.corrupt),
        (b"BM" + bytes(30), Status.corrupt),
        (b"P6\n0 5\n255\n", Status.corrupt),
        (b"II*\0" + struct.pack("<I", 1 << 30), Status.corrupt),
    ],
)
def test_status_of_what_is_no_image(data: bytes, status: Status) -> None:
    with pytest.raises(ImageError) as error:
        read_header(data)
    assert error.value.status == status
    assert error.value.reason


@pytest.mark.parametrize("name", ["jpeg", "png", "webp"])
def test_truncation_is_seen_without_decoding(name: str) -> None:
    cut = ENCODED[name][: len(ENCODED[name]) * 3 // 4]
    header = read_header(cut)
    assert header.defect and (header.width, header.height) == (37, 53)


@pytest.mark.parametrize("marker", [b"\xff\xd0", b"\xff\xff\xd7"])
def test_restart_markers_where_there_are_none(marker: bytes) -> None:
    assert read_header(ENCODED["jpeg"][:-9] + marker + ENCODED["jpeg"][-9:]).defect.endswith("where there are none")


@pytest.mark.parametrize(("marker", "defect"), [(b"\xd1", ""), (b"\xd3", "restart markers out of order")])
def test_restart_markers_count(marker: bytes, defect: str) -> None:
    data = encode(IMAGE, "JPEG", restart_marker_blocks=2)
    header = read_header(data.replace(b"\xff\xd1", b"\xff" + marker, 1))
    assert header.defect.removeprefix("jpeg: ") == defect


@settings(max_examples=300)
@given(st.sampled_from(sorted(ENCODED)), st.data())
def test_damaged_headers_raise_nothing_but_image_errors(name: str, data: st.DataObject) -> None:
    raw = bytearray(ENCODED[name])
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, min(len(raw), 200) - 1))] = data.draw(st.integers(0, 255))
    try:
        header = read_header(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    except ImageError as error:
        assert error.status in (Status.corrupt, Status.unsupported)
    else:
        assert header.width > 0 and header.height > 0 and 1 <= header.orientation <= 8


@settings(max_examples=300)
@given(st.lists(st.sampled_from([b"\xff", b"\xff\x00", b"\xd0", b"\xd9", b"\x00", b"\x0a", b"ab"]), max_size=40))
def test_the_end_of_a_scan_is_the_first_marker_that_is_no_restart_where_those_may_be(parts: list[bytes]) -> None:
    data = b"\0" + b"".join(parts)
    for restarts, ends in ((True, rb"\xff+[\x01-\xcf\xd8-\xfe]"), (False, rb"\xff+[\x01-\xfe]")):
        wanted = re.compile(ends).search(data)
        assert scanned(memoryview(data), 0, restarts).end == (wanted and wanted.start())


@pytest.mark.parametrize(("end", "restarts"), [(b"", True), (b"\x00", True), (b"\xd0", True), (b"\x00", False)])
def test_a_run_of_fill_bytes_takes_linear_time(end: bytes, restarts: bool) -> None:
    start, data = time.process_time(), memoryview(b"\xff" * 1_000_000 + end)
    assert scanned(data, 0, restarts).end is by_python(data, 0, restarts).end is None
    assert time.process_time() - start < 1.0  # quadratic: an hour
