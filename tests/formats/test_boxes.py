"""The structure check of WebP and JPEG 2000, which are boxes in boxes, at the byte where it decides."""

from __future__ import annotations

import struct

import pytest

from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats import read_header


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


# --- WebP ---


def webp(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def part(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


TURNED = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x08\0\0\0"


def lossy(width: int, height: int, more: int = 4) -> bytes:
    return bytes(3) + b"\x9d\x01\x2a" + struct.pack("<HH", width, height) + bytes(more)


def lossless(width: int, height: int, more: int = 5) -> bytes:
    return b"\x2f" + struct.pack("<I", width - 1 | height - 1 << 14 | 1 << 28) + bytes(more)


def canvas(flags: int, width: int = 8, height: int = 3) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return part(b"VP8X", bytes([flags, 0, 0, 0]) + size)


def test_webp_sizes_and_lengths() -> None:
    simple = webp(part(b"VP8 ", lossy(0x4000 | 5000, 0x8000 | 3)))
    check(simple, 5000, 3, f"truncated, {len(simple) - 1} of {len(simple)} bytes")
    simple = webp(part(b"VP8L", lossless(5000, 3)))
    check(simple, 5000, 3, f"truncated, {len(simple) - 1} of {len(simple)} bytes")
    extended = webp(canvas(0, 5000), part(b"VP8L", lossless(5000, 3)), part(b"ABCD", bytes(3)))
    check(extended, 5000, 3, f"truncated, {len(extended) - 1} of {len(extended)} bytes")


@pytest.mark.parametrize("more", [3, 4, 5, 6])
@pytest.mark.parametrize("before", [b"", part(b"ICCP", bytes(3)), part(b"ALPH", bytes(5)), part(b"EXIF", TURNED)])
def test_webp_decoders_get_the_picture_alone(before: bytes, more: int) -> None:
    for kind, picture in ((b"VP8 ", lossy(8, 3, more)), (b"VP8L", lossless(8, 3, more))):
        header = read_header(webp(canvas(0x28), before, part(kind, picture), part(b"XMP ", bytes(3))))
        alone = webp(part(kind, picture))
        assert b"".join(header.parts) == (alone if len(alone) >= 32 else alone + bytes(32)) and not header.defect
        assert read_header(webp(part(kind, picture), before, part(b"ABCD", bytes(9)))).parts == ()
        small = read_header(alone)
        assert b"".join(small.parts) == (b"" if len(alone) >= 32 else alone + bytes(32))


@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
@pytest.mark.parametrize("before", [b"", part(b"ICCP", bytes(3)), part(b"ICCP", bytes(4))])
def test_webp_orientation(prefix: bytes, before: bytes) -> None:
    parts = [before, part(b"VP8L", lossless(8, 3)), part(b"EXIF", prefix + TURNED), part(b"EXIF", bytes(9))]
    header = read_header(webp(canvas(0x08), *parts))
    assert (header.orientation, header.display_size, header.defect) == (8, (3, 8), "")
    assert read_header(webp(canvas(0xF7 & ~2), *parts)).orientation == 1  # not announced: libwebp does not read it
    assert read_header(webp(*parts[1:])).orientation == 1  # nor in a simple file


def test_webp_profile() -> None:
    profile, picture = part(b"ICCP", b"profile"), part(b"VP8L", lossless(8, 3))
    assert read_header(webp(canvas(0x20), profile, picture)).icc == b"profile"
    assert read_header(webp(canvas(0), profile, picture)).icc == b""


@pytest.mark.parametrize(("flags", "still"), [(0x02, False), (0xFF, False), (0xFD, True), (0x00, True)])
def test_webp_that_moves(flags: int, still: bool) -> None:
    header = read_header(webp(canvas(flags), part(b"VP8L", lossless(8, 3)), *[part(b"ANMF", bytes(16))] * 3))
    assert (header.width, header.decoder) == (8, "dali" if still else "pillow")
    assert header.note == ("" if still else "the first of 3 pictures")
    assert read_header(webp(canvas(flags))).defect == ("no image data" if still else "an animation without frames")


def test_webp_of_no_kind() -> None:
    assert "unknown first chunk" in status_of(webp(part(b"VP9 ", bytes(20))))[1]
    assert status_of(webp(part(b"VP8X", bytes(10)))[:26])[0] == Status.corrupt
    assert "no key frame" in status_of(webp(part(b"VP8 ", bytes(20))))[1]
    assert "no key frame" in status_of(webp(part(b"VP8 ", b"\1" + lossy(8, 3)[1:])))[1]
    assert "no lossless picture" in status_of(webp(part(b"VP8L", bytes(20))))[1]
    assert "on a canvas" in status_of(webp(canvas(0), part(b"VP8L", lossless(9, 3))))[1]


# --- JPEG 2000 ---


def box(kind: bytes, data: bytes, long: bool = False) -> bytes:
    if long:
        return b"\0\0\0\1" + kind + struct.pack(">Q", len(data) + 16) + data
    return struct.pack(">I", len(data) + 8) + kind + data


def codestream(
    components: int = 3,
    depth: int = 8,
    offset: tuple[int, int] = (0, 0),
    end: bytes = b"\xff\xd9",
    steps: tuple[int, int] = (1, 1),
) -> bytes:
    size = struct.pack(">IIIIIIII", 37 + offset[0], 53 + offset[1], *offset, 37, 53, 0, 0)
    kinds = bytes([depth - 1, *steps]) * components
    siz = struct.pack(">HHH", 0xFF51, 38 + len(kinds), 0) + size + struct.pack(">H", components) + kinds
    return b"\xff\x4f" + siz + bytes(20) + end


def jp2(*boxes: bytes, data: bytes | None = None) -> bytes:
    """Boxes, and the codestream in a last one."""
    return b"\0\0\0\x0cjP  \r\n\x87\n" + b"".join(boxes) + box(b"jp2c", codestream() if data is None else data)


def colour(space: int) -> bytes:
    return box(b"jp2h", box(b"ihdr", bytes(14)) + box(b"colr", b"\1\0\0" + struct.pack(">I", space)))


def test_jpeg2000_from_its_size_to_its_end() -> None:
    check(codestream(), 37, 53, "truncated, no end of codestream")
    assert read_header(codestream(end=b"\xff\xd8")).defect == "truncated, no end of codestream"


def test_jpeg2000_image_that_is_off_the_origin() -> None:
    header = read_header(codestream(offset=(11, 21)))
    assert (header.width, header.height) == (37, 53)


@pytest.mark.parametrize("size", [0, 1, 60_000, 70_000])
def test_jpeg2000_behind_boxes(size: int) -> None:
    assert read_header(jp2(box(b"uuid", bytes(size)))).width == 37
    assert read_header(jp2(box(b"uuid", codestream(1)), box(b"xml ", bytes(size), long=True))).width == 37
    plain = jp2(data=b"")[:-8]
    assert read_header(plain + box(b"jp2c", codestream(), long=True)).width == 37
    assert read_header(plain + b"\0\0\0\0jp2c" + codestream()).width == 37  # as far as the file goes


def test_jpeg2000_without_a_codestream() -> None:
    for data in (jp2(data=b"")[:-8], jp2(data=b"") + bytes(99), jp2(data=bytes(99)), jp2(b"\0\0\0\2free")):
        assert status_of(data)[0] == Status.corrupt


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (codestream(5), "5 components"),
        (codestream(0), "0 components"),
        (codestream(depth=17), "17-bit"),
        (codestream(depth=0x88), "not unsigned"),
        (codestream(steps=(2, 2)), "not of full size"),
        (jp2(colour(14)), "colour space 14"),
        (jp2(colour(12)), "colour space 12 of 3 components"),
        (jp2(colour(16), data=codestream(1)), "colour space 16 of 1 components"),
    ],
)
def test_jpeg2000_that_is_not_supported(data: bytes, words: str) -> None:
    found, reason = status_of(data)
    assert found == Status.unsupported and words in reason


@pytest.mark.parametrize(
    "data",
    [
        *(codestream(n) for n in (1, 2, 3, 4)),
        *(codestream(depth=n) for n in (1, 8, 12, 15, 16)),
        *(jp2(colour(n)) for n in (16, 17, 18)),
        jp2(colour(12), data=codestream(4)),
        jp2(colour(18), data=codestream(depth=0x88)),
    ],
)
def test_jpeg2000_that_is(data: bytes) -> None:
    header = read_header(data)
    assert (header.height, header.decoder, header.defect) == (53, "pillow", "")


def test_jpeg2000_profile() -> None:
    boxes = box(b"jp2h", box(b"colr", b"\2\0\0profile") + box(b"colr", b"\1\0\0\0\0\0\x0e"))
    assert read_header(jp2(boxes)).icc == b"profile"  # the first counts
