"""The structure check of BMP, PNM and PNG, at the byte where it decides."""

from __future__ import annotations

import struct
import zlib

import pytest
from PIL import Image

from images import encode
from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats import read_header
from metaqap_fast.formats.icc import BROKEN, SRGB, from_cicp, profile

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
    whole = bmp(37, height, depth, start=62).ljust(62, b"\0") + bytes(3 * row)
    check(whole, 37, 3, f"truncated, {len(whole) - 1} of {len(whole)} bytes")


def test_bmp_of_os2() -> None:
    whole = b"BM" + struct.pack("<IHHIIHHHH", 0, 0, 0, 26, 12, 37, 3, 1, 24) + bytes(3 * 112)
    check(whole, 37, 3, f"truncated, {len(whole) - 1} of {len(whole)} bytes")


@pytest.mark.parametrize("packing", [1, 2])
def test_bmp_in_run_lengths_is_as_long_as_it_says(packing: int) -> None:
    whole = bmp(37, 3, 8 // packing, packing, start=60, size=90).ljust(90, b"\0")
    check(whole, 37, 3, "truncated, 89 of 90 bytes")


def test_bmp_masks_are_no_run_lengths() -> None:
    whole = bmp(37, 3, 32, packing=3, start=66, size=1).ljust(66, b"\0") + bytes(3 * 148)
    check(whole, 37, 3, f"truncated, {len(whole) - 1} of {len(whole)} bytes")


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (bmp(37, 3, 24, packing=4), Status.unsupported, "compression 4"),
        (bmp(37, 3, 24, packing=5), Status.unsupported, "compression 5"),
        (bmp(37, 3, 24, packing=3), Status.corrupt, "24 bits a pixel, compression 3"),
        (bmp(37, 3, 4, packing=1), Status.corrupt, "4 bits a pixel, compression 1"),
        (bmp(37, 3, 7), Status.corrupt, "7 bits a pixel"),
        (bmp(37, 3, 8), Status.corrupt, "no palette"),
        (bmp(37, 3, 24).replace(b"\x28", b"\x29", 1), Status.corrupt, "a header of 41 bytes"),
    ],
)
def test_bmp_that_is_refused(data: bytes, status: Status, words: str) -> None:
    found, reason = status_of(data + bytes(1000))
    assert found == status and words in reason


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
        (b"P4 5 3\n", 3),
        (b"P4 #\n5 # bits\n3 ", 3),
        (b"P1 5 3\n", 15),  # digits of bits may touch
        (b"P5 5 3 100\n", 15),
        (b"P5 5 3 256\n", 30),
    ],
)
def test_pnm_has_all_its_samples(head: bytes, samples: int) -> None:
    check(head + bytes(samples), 5, 3, f"truncated, {samples - 1} of {samples} bytes of samples")


@pytest.mark.parametrize("largest", [0, 65536])
def test_pnm_of_no_range(largest: int) -> None:
    assert f"a largest sample of {largest}" in status_of(b"P5 5 3 %d\n" % largest + bytes(30))[1]


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


@pytest.mark.parametrize(
    ("colour", "channels", "depth"),
    [(0, 1, 1), (0, 1, 8), (0, 1, 16), (2, 3, 8), (2, 3, 16), (3, 1, 1), (3, 1, 8), (4, 2, 8), (4, 2, 16), (6, 4, 8)],
)
def test_png_has_data_for_its_pixels(colour: int, channels: int, depth: int) -> None:
    """One byte of deflated data stands for 1032 at most; a row has a byte of its own."""
    width, height = 1031, 40
    raw = height * (1 + width * depth * channels // 8)
    least = -(-raw // 1032)
    for length, defect in ((least, ""), (least - 1, f"{least - 1} bytes of image data cannot hold {raw}")):
        parts = [
            chunk(b"PLTE", bytes(3)),
            chunk(b"IDAT", bytes(length - 1)),
            chunk(b"tIME", bytes(500)),
            chunk(b"IDAT", b"\0"),
        ]
        found = read_header(png(*parts, END, width=width, height=height, depth=depth, colour=colour))
        assert found.defect == defect


@pytest.mark.parametrize(("colour", "depth"), [(1, 8), (5, 8), (7, 8), (2, 4), (3, 16), (4, 1), (6, 2), (0, 3)])
def test_png_of_no_colour_type(colour: int, depth: int) -> None:
    assert status_of(png(DATA, END, colour=colour, depth=depth)) == (
        Status.corrupt, f"PNG: damaged or truncated header (colour type {colour} of {depth} bits)",
    )  # fmt: skip


def test_png_without_its_palette() -> None:
    assert read_header(png(DATA, END, colour=3)).defect == "no palette"


def test_png_of_apple() -> None:
    data = png(DATA, END)
    assert status_of(data[:8] + chunk(b"CgBI", bytes(4)) + data[8:])[0] == Status.unsupported


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


def turn(orientation: int) -> bytes:
    return b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + bytes([orientation, 0, 0, 0, 0, 0, 0])


def test_png_the_first_sound_exif_counts_and_no_decoder_gets_any() -> None:
    one, other = chunk(b"eXIf", turn(6)), chunk(b"eXIf", turn(3))
    for exifs, orientation in (([one, other], 6), ([other, one], 3), ([chunk(b"eXIf", turn(8), flaw=1), one], 6)):
        header = read_header(png(exifs[0], DATA, exifs[1], END))
        assert header.orientation == orientation and b"".join(header.parts) == png(DATA, END)
    assert read_header(png(DATA, END)).parts == ()
    prefixed = chunk(b"eXIf", b"Exif\0\0" + turn(6))  # as JPEG has it: no TIFF, and passed over by viewers
    assert read_header(png(prefixed, DATA, END)).orientation == 1


ANIMATION, FRAME, MORE = chunk(b"acTL", b"\0\0\0\3\0\0\0\0"), chunk(b"fcTL", bytes(26)), chunk(b"fdAT", bytes(9))


@pytest.mark.parametrize(
    ("chunks", "note"),
    [
        ([ANIMATION, FRAME, DATA, FRAME, MORE], "the first of 3 pictures"),
        ([ANIMATION, DATA, FRAME, MORE], "the picture beside an animation"),
        ([ANIMATION, DATA], ""),  # without frames
        ([chunk(b"acTL", b"\0\0\0\3"), FRAME, DATA, FRAME, MORE], ""),  # broken
        ([FRAME, DATA, MORE], ""),
    ],
)
def test_png_that_moves_is_decoded_as_one_that_does_not(chunks: list[bytes], note: str) -> None:
    header = read_header(png(*chunks, END))
    assert (header.note, header.defect) == (note, "") and b"".join(header.parts) == png(DATA, END)


def test_png_profile() -> None:
    profile = bytes(range(256)) * 20
    packed = b"a name\0\0" + zlib.compress(profile)
    assert read_header(png(chunk(b"iCCP", packed), DATA, END)).icc == profile
    for damaged in (packed[:-9], packed[:8] + bytes(50), b"no end", b"a name\0\1" + packed[8:], b""):
        assert read_header(png(chunk(b"iCCP", damaged), DATA, END)).icc == BROKEN
    bomb = b"n\0\0" + zlib.compress(bytes(17 << 20))
    assert read_header(png(chunk(b"iCCP", bomb), DATA, END)).icc == BROKEN


def test_png_colours_by_the_strongest_word() -> None:
    said = {b"gAMA": struct.pack(">I", 100_000), b"sRGB": b"\0", b"iCCP": b"n\0\0" + zlib.compress(b"a profile")}
    said[b"cICP"] = b"\x0c\x0d\0\1"
    wanted = [profile(SRGB, 1.0), b"", b"a profile", from_cicp(12, 13)]
    for n, icc in enumerate(wanted, 1):
        some = [chunk(kind, content) for kind, content in list(said.items())[:n]]
        assert read_header(png(*some, DATA, END)).icc == read_header(png(*some[::-1], DATA, END)).icc == icc
    points = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
    both = (chunk(b"gAMA", struct.pack(">I", 45455)), chunk(b"cHRM", points))
    assert read_header(png(*both, DATA, END)).icc == from_cicp(12, 13)
    assert read_header(png(both[1], DATA, END)).icc == read_header(png(both[0], DATA, END)).icc == b""
    assert "HDR (PQ)" in status_of(png(chunk(b"cICP", b"\x09\x10\0\1"), DATA, END))[1]


def test_encoded_files_pass() -> None:
    for form in ("BMP", "PPM", "PNG", "WEBP", "JPEG2000"):
        header = read_header(encode(IMAGE, form))
        assert (header.width, header.height, header.defect) == (37, 53, "")
