"""The structure check of BMP, PNM, PNG, WebP and JPEG 2000, at the byte where it decides."""

from __future__ import annotations

import struct
import zlib

import pytest
from PIL import Image

from images import encode
from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats import read_header

IMAGE = Image.effect_noise((37, 53), 60).convert("RGB")


def check(whole: bytes, width: int, height: int, defect: str) -> None:
    """Sound with all its bytes and with more; with one less it has a defect."""
    for data in (whole, whole + b"tail"):
        header = read_header(data)
        assert (header.width, header.height, header.defect) == (width, height, "")
    header = read_header(whole[:-1])
    assert (header.width, header.height) == (width, height) and header.defect == defect


def status_of(data: bytes) -> tuple[Status, str]:
    with pytest.raises(ImageError) as error:
        read_header(data)
    return error.value.status, error.value.reason


# --- BMP ---


def bmp(width: int, height: int, depth: int, packing: int = 0, start: int = 54, size: int = 0) -> bytes:
    head = b"BM" + struct.pack("<IHHI", size, 0, 0, start)
    return head + struct.pack("<IiiHHIIiiII", 40, width, height, 1, depth, packing, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("depth", "row"), [(1, 8), (4, 20), (8, 40), (16, 76), (24, 112), (32, 148)]
)  # of 37 pixels, whole words
@pytest.mark.parametrize("height", [3, -3])  # from below, from above
def test_bmp_has_all_its_rows(depth: int, row: int, height: int) -> None:
    whole = bmp(37, height, depth, start=60).ljust(60, b"\0") + bytes(3 * row)
    check(whole, 37, 3, f"truncated, {len(whole) - 1} of {len(whole)} bytes")


def test_bmp_of_os2() -> None:
    whole = b"BM" + struct.pack("<IHHIIHHHH", 0, 0, 0, 26, 12, 37, 3, 1, 24) + bytes(3 * 112)
    check(whole, 37, 3, f"truncated, {len(whole) - 1} of {len(whole)} bytes")


@pytest.mark.parametrize("packing", [1, 2])
def test_bmp_in_run_lengths_is_as_long_as_it_says(packing: int) -> None:
    check(bmp(37, 3, 8, packing, size=90).ljust(90, b"\0"), 37, 3, "truncated, 89 of 90 bytes")


def test_bmp_masks_are_no_run_lengths() -> None:
    whole = bmp(37, 3, 32, packing=3, start=66, size=1).ljust(66, b"\0") + bytes(3 * 148)
    check(whole, 37, 3, f"truncated, {len(whole) - 1} of {len(whole)} bytes")


# --- PNM ---


@pytest.mark.parametrize(
    ("head", "samples"),
    [
        (b"P5 5 3 255\n", 15),
        (b"P5 5 3 65535\n", 30),
        (b"P6 5 3 255\n", 45),
        (b"P6 5 3 65535\n", 90),
        (b"P6 # a comment\n# and another\n 5 # width\n 3\n255 ", 45),
        (b"P2 5 3 255\n", 29),
        (b"P2 5 3 65535\n", 29),  # a digit and a space each, as little as may be
        (b"P3 5 3 255\n", 89),
    ],
)
def test_pnm_has_all_its_samples(head: bytes, samples: int) -> None:
    check(head + bytes(samples), 5, 3, f"truncated, {samples - 1} of {samples} bytes of samples")


@pytest.mark.parametrize("largest", [1, 254, 256, 65534])
def test_pnm_of_another_range(largest: int) -> None:
    status, reason = status_of(b"P5 5 3 %d\n" % largest + bytes(30))
    assert status == Status.unsupported and str(largest) in reason


@pytest.mark.parametrize("head", [b"P5 5 3 ", b"P5 5 x 255\n", b"P6 1234567890 1 255\n", b"P5 5\n"])
def test_pnm_without_a_size(head: bytes) -> None:
    assert status_of(head)[0] == Status.corrupt


# --- PNG ---


def chunk(kind: bytes, data: bytes, flaw: int = 0) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ flaw)


def png(*chunks: bytes, width: int = 8, height: int = 4, depth: int = 8, colour: int = 2) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks)


DATA, END = chunk(b"IDAT", bytes(9)), chunk(b"IEND", b"")


def test_png_from_its_header_to_its_end() -> None:
    check(png(DATA, END), 8, 4, "truncated, no IEND chunk")
    assert read_header(png(DATA)).defect == "truncated, no IEND chunk"


@pytest.mark.parametrize("kind", [b"PLTE", b"IDAT", b"IEND"])
def test_png_checksums_of_what_makes_the_picture(kind: bytes) -> None:
    bad = chunk(kind, b"", flaw=1)
    header = read_header(png(bad, DATA, END))
    assert header.defect == f"wrong checksum of {kind.decode()} at byte 33"
    assert not read_header(png(chunk(b"tEXt", b"any", flaw=1), DATA, END)).defect


def test_png_checksum_of_the_header() -> None:
    data = bytearray(png(DATA, END))
    data[29] ^= 1
    assert read_header(bytes(data)).defect == "wrong checksum of IHDR at byte 8"


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (3, 1), (4, 2), (6, 4)])
@pytest.mark.parametrize("depth", [1, 8, 16])
def test_png_has_data_for_its_pixels(colour: int, channels: int, depth: int) -> None:
    """One byte of deflated data stands for 1032 at most; a row has a byte of its own."""
    width, height = 1031, 40
    raw = height * (1 + width * depth * channels // 8)
    least = -(-raw // 1032)
    for length, defect in ((least, ""), (least - 1, f"{least - 1} bytes of image data cannot hold {raw}")):
        parts = [chunk(b"IDAT", bytes(length - 1)), chunk(b"tIME", bytes(500)), chunk(b"IDAT", b"\0")]
        found = read_header(png(*parts, END, width=width, height=height, depth=depth, colour=colour))
        assert found.defect == defect


@pytest.mark.parametrize("colour", [1, 5, 7])
def test_png_of_no_colour_type(colour: int) -> None:
    assert status_of(png(DATA, END, colour=colour)) == (
        Status.corrupt, f"PNG: damaged or truncated header (colour type {colour})",
    )  # fmt: skip


def test_png_begins_with_its_header() -> None:
    for data in (
        png(DATA, END)[:8] + DATA + END + bytes(20),
        png(DATA, END).replace(b"\0\0\0\rIHDR", b"\0\0\0\x0eIHDR"),
    ):
        assert "IHDR is not the first chunk" in status_of(data)[1]


@pytest.mark.parametrize("before", [True, False])
def test_png_orientation_before_and_after_the_pixels(before: bool) -> None:
    exif = chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")
    text = chunk(b"tEXt", bytes(7))  # so that no chunk begins at a round number
    header = read_header(png(text, *((exif, DATA) if before else (DATA, exif)), END))
    assert (header.orientation, header.display_size, header.defect) == (6, (4, 8), "")


# --- WebP ---


def webp(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def part(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


TURNED = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x08\0\0\0"


def test_webp_sizes_and_lengths() -> None:
    lossy = webp(part(b"VP8 ", bytes(6) + struct.pack("<HH", 0x4000 | 5000, 0x8000 | 3) + bytes(4)))
    check(lossy, 5000, 3, f"truncated, {len(lossy) - 1} of {len(lossy)} bytes")
    lossless = webp(part(b"VP8L", b"\x2f" + struct.pack("<I", 4999 | 2 << 14 | 1 << 28) + bytes(5)))
    check(lossless, 5000, 3, f"truncated, {len(lossless) - 1} of {len(lossless)} bytes")
    extended = webp(part(b"VP8X", bytes(4) + (69_999).to_bytes(3, "little") + b"\x02\0\0"), part(b"ABCD", bytes(3)))
    check(extended, 70_000, 3, f"truncated, {len(extended) - 1} of {len(extended)} bytes")


@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
@pytest.mark.parametrize("before", [b"", part(b"ICCP", bytes(3)), part(b"ICCP", bytes(4))])
def test_webp_orientation(prefix: bytes, before: bytes) -> None:
    size = part(b"VP8X", b"\x08\0\0\0" + bytes([7, 0, 0, 2, 0, 0]))
    header = read_header(webp(size, before, part(b"EXIF", prefix + TURNED)))
    assert (header.orientation, header.display_size, header.defect) == (8, (3, 8), "")


@pytest.mark.parametrize(("flags", "still"), [(0x02, False), (0xFF, False), (0xFD, True), (0x00, True)])
def test_webp_that_moves(flags: int, still: bool) -> None:
    data = webp(part(b"VP8X", bytes([flags, 0, 0, 0, 7, 0, 0, 2, 0, 0])))
    if still:
        assert read_header(data).width == 8
    else:
        assert status_of(data) == (Status.unsupported, "animated WebP is not supported")


def test_webp_of_no_kind() -> None:
    assert "unknown first chunk" in status_of(webp(part(b"VP9 ", bytes(20))))[1]
    assert status_of(webp(part(b"VP8X", bytes(10)))[:29])[0] == Status.corrupt


# --- JPEG 2000 ---


def jp2(
    components: int = 3, depth: int = 8, offset: tuple[int, int] = (0, 0), before: bytes = b"", end: bytes = b"\xff\xd9"
) -> bytes:
    size = struct.pack(">IIIIIIII", 37 + offset[0], 53 + offset[1], *offset, 37, 53, 0, 0)
    kinds = bytes([depth - 1, 1, 1]) * components
    siz = struct.pack(">HHH", 0xFF51, 38 + len(kinds), 0) + size + struct.pack(">H", components) + kinds
    signature = b"\0\0\0\x0cjP  \r\n\x87\n"
    return (signature + before if before else b"") + b"\xff\x4f" + siz + bytes(20) + end


def test_jpeg2000_from_its_size_to_its_end() -> None:
    check(jp2(), 37, 53, "truncated, no end of codestream")
    assert read_header(jp2(end=b"\xff\xd8")).defect == "truncated, no end of codestream"


def test_jpeg2000_image_that_is_off_the_origin() -> None:
    header = read_header(jp2(offset=(11, 21)))
    assert (header.width, header.height) == (37, 53)


@pytest.mark.parametrize("boxes", [1, 60_000, 65_000])
def test_jpeg2000_behind_boxes(boxes: int) -> None:
    assert read_header(jp2(before=bytes(boxes))).width == 37


def test_jpeg2000_codestream_that_is_not_looked_for_so_far() -> None:
    assert status_of(jp2(before=bytes(70_000)))[0] == Status.corrupt


@pytest.mark.parametrize(
    ("components", "status"), [(1, None), (2, "2 components"), (3, None), (4, None), (5, "5 comp")]
)
def test_jpeg2000_components(components: int, status: str | None) -> None:
    if status is None:
        assert read_header(jp2(components)).height == 53
    else:
        found, reason = status_of(jp2(components))
        assert found == Status.unsupported and status in reason


@pytest.mark.parametrize(("depth", "sound"), [(8, True), (16, True), (1, False), (12, False), (15, False)])
def test_jpeg2000_depth(depth: int, sound: bool) -> None:
    if sound:
        assert read_header(jp2(depth=depth)).width == 37
    else:
        found, reason = status_of(jp2(depth=depth))
        assert found == Status.unsupported and f"{depth}-bit" in reason


def test_encoded_files_pass() -> None:
    for form in ("BMP", "PPM", "PNG", "WEBP", "JPEG2000"):
        header = read_header(encode(IMAGE, form))
        assert (header.width, header.height, header.defect) == (37, 53, "")
