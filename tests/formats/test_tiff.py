"""TIFF and EXIF: which tags decide, in either byte order, and what is damaged."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import pytest

from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats import exif, read_header
from metaqap_fast.formats.directory import Directory

CODES = {1: "B", 3: "H", 4: "I"}
# Tag -> (kind, values): a gray picture of 5 x 3 pixels in two strips that stand at byte 8.
GRAY = {
    256: (3, [5]), 257: (3, [3]), 258: (3, [8]), 259: (3, [1]), 262: (3, [1]),
    273: (4, [8, 18]), 277: (3, [1]), 278: (3, [2]), 279: (4, [10, 5]),
}  # fmt: skip


def tiff(endian: str = "<", changes: Mapping[int, tuple[int, list[int]] | None] | None = None, after: int = 0) -> bytes:
    """The picture's bytes, the directory, then values that have no room in it."""
    tags = {tag: entry for tag, entry in sorted({**GRAY, **(changes or {})}.items()) if entry is not None}
    at = 8 + 15
    head = (b"II" if endian == "<" else b"MM") + struct.pack(endian + "HI", 42, at)
    end = at + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    for tag, (kind, numbers) in tags.items():
        data = b"".join(struct.pack(endian + CODES.get(kind, "H"), number) for number in numbers)
        entries += struct.pack(endian + "HHI", tag, kind, len(numbers))
        if len(data) > 4:
            entries, values = entries + struct.pack(endian + "I", end + len(values)), values + data
        else:
            entries += data.ljust(4, b"\0")
    return head + bytes(15) + struct.pack(endian + "H", len(tags)) + entries + struct.pack(endian + "I", after) + values


ONE_STRIP = {273: (4, [8]), 279: (4, [15])}  # all values are in the directory


def refusal(data: bytes) -> tuple[Status, str]:
    with pytest.raises(ImageError) as error:
        read_header(data)
    return error.value.status, error.value.reason


@pytest.mark.parametrize("endian", ["<", ">"])
def test_sound(endian: str) -> None:
    header = read_header(tiff(endian))
    assert (header.width, header.height, header.orientation, header.defect) == (5, 3, 1, "")
    wide = read_header(tiff(endian, {256: (4, [70_000])}))
    assert (wide.width, wide.height) == (70_000, 3) and "cannot hold it" in wide.defect


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize(("value", "orientation"), [*((i, i) for i in range(1, 9)), (0, 1), (9, 1), (65535, 1)])
def test_orientation(endian: str, value: int, orientation: int) -> None:
    data = tiff(endian, {274: (3, [value])})
    assert read_header(data).orientation == exif.orientation(memoryview(data)) == orientation


@pytest.mark.parametrize("tags", [(273, 279), (324, 325)])  # strips, tiles
def test_every_piece_has_to_be_there(tags: tuple[int, int]) -> None:
    other = {273: None, 279: None, 278: None} | ({} if tags[0] == 273 else {322: (3, [16]), 323: (3, [2])})
    other |= {259: (3, [5]), 278: (3, [2])}
    size = len(tiff(changes={**other, tags[0]: (4, [8, 23]), tags[1]: (4, [10, 5])}))
    for last, defect in ((size - 23, ""), (size - 22, f"truncated, {size} of {size + 1} bytes")):
        changes = {**other, tags[0]: (4, [8, 23]), tags[1]: (4, [10, last])}
        assert read_header(tiff(changes=changes)).defect == defect
        turned = {**changes, tags[0]: (4, [23, 8]), tags[1]: (4, [last, 10])}  # in no order
        assert read_header(tiff(changes=turned)).defect == defect


def test_no_pieces() -> None:
    assert read_header(tiff(changes={273: None})).defect == "0 strips or tiles, 2 are needed"
    assert read_header(tiff(changes={278: (3, [1])})).defect == "2 strips or tiles, 3 are needed"
    assert read_header(tiff(changes={259: (3, [5]), 279: None})).defect == "0 strips or tiles, 2 are needed"


def test_counts_that_follow_from_something_else() -> None:
    """Bytes that are the samples are as many as the samples; a single piece goes on as far as the file does."""
    assert not read_header(tiff(changes={279: None})).defect
    assert not read_header(tiff(changes={279: (4, [1 << 30, 1 << 30])})).defect
    for counts in (None, (4, [0])):
        assert not read_header(tiff(changes={259: (3, [5]), 273: (4, [8]), 278: None, 279: counts})).defect
    wide = read_header(tiff(changes={256: (3, [500]), 273: (4, [8]), 278: None, 279: None})).defect
    assert wide.startswith("truncated") and wide.endswith("of 1508 bytes")


def test_pieces_that_are_too_short() -> None:
    assert read_header(tiff(changes={279: (4, [9, 5])})).defect == "strip or tile 0 has 9 bytes, which cannot hold it"
    assert read_header(tiff(changes={279: (4, [10, 4])})).defect == "strip or tile 1 has 4 bytes, which cannot hold it"
    packed = {259: (3, [5])}
    assert not read_header(tiff(changes={**packed, 279: (4, [9, 4])})).defect
    assert "1 has 0 bytes" in read_header(tiff(changes={**packed, 279: (4, [9, 0])})).defect


@pytest.mark.parametrize("missing", [256, 257])
def test_no_size(missing: int) -> None:
    assert refusal(tiff(changes={missing: None})) == (
        Status.corrupt, "TIFF: damaged or truncated header (no image size)",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({258: (3, [8, 8, 12])}, "samples of several sizes"),
        ({258: (3, [17])}, "17-bit samples"),
        ({259: (3, [34712])}, "compression 34712"),
        ({259: (3, [6])}, "compression 6"),
        ({259: (3, [4])}, "fax compression of 1 8-bit samples"),
        ({259: (3, [7]), 258: (3, [12])}, "12-bit samples"),
        ({259: (3, [5]), 317: (3, [3])}, "predictor 3"),
        ({259: (3, [5]), 317: (3, [2]), 258: (3, [12])}, "predictor 2 of 12 bits"),
        ({277: (3, [65])}, "65 samples"),
        ({262: (3, [5]), 277: (3, [4]), 332: (3, [2])}, "inks other than CMYK"),
        ({254: (4, [1])}, "begins with a thumbnail"),
        ({258: (3, [32])}, "32-bit samples"),
        ({339: (3, [2])}, "not unsigned"),
        ({339: (3, [1, 1, 3])}, "not unsigned"),
        *(({262: (3, [model])}, f"colour model {model}") for model in (4, 7, 8, 32844)),
    ],
)
def test_refused(changes: Mapping[int, tuple[int, list[int]]], words: str) -> None:
    status, reason = refusal(tiff(changes=changes))
    assert status == Status.unsupported and words in reason


@pytest.mark.parametrize(
    "changes",
    [
        {258: (3, [8, 8, 8])},
        {258: (3, [16])},
        {258: (3, [1])},
        {258: None},
        {258: (3, [11])},
        {339: (3, [1, 1, 1])},
        {339: (3, [4])},
        {262: (3, [0])},
        {262: (3, [2]), 277: (3, [3])},
        {262: (3, [2]), 277: (3, [9]), 284: (3, [2]), 273: (4, [8] * 18), 279: (4, [10] * 18)},
        {262: (3, [3]), 320: (3, [0] * 768)},
        {262: (3, [5]), 277: (3, [4]), 332: (3, [1])},
        {262: (3, [6]), 277: (3, [3])},
        *({259: (3, [packing]), 317: (3, [2])} for packing in (5, 8, 32946, 34925, 50000)),
        *({259: (3, [fax]), 258: (3, [1])} for fax in (2, 3, 4)),
        {259: (3, [7])},
        {322: (3, [4096]), 323: (3, [4096])},
    ],
)
def test_not_refused(changes: Mapping[int, tuple[int, list[int]]]) -> None:
    assert not read_header(tiff(changes={259: (3, [5]), **changes})).defect


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({262: None}, "no colour model"),
        ({262: (3, [2])}, "1 samples a pixel, too few for colour model 2"),
        ({262: (3, [5]), 277: (3, [3])}, "too few for colour model 5"),
        ({256: (3, [0])}, "0x3 pixels"),
        ({277: (3, [0])}, "0 samples"),
        ({284: (3, [3])}, "planes 3"),
        ({266: (3, [0])}, "fill order 0"),
        ({278: (3, [0])}, "pieces of 5x0 pixels"),
        ({322: (3, [0]), 323: (3, [16])}, "pieces of 0x16 pixels"),
        ({322: (4, [1 << 20]), 323: (3, [257])}, "tiles of 1048576x257 pixels for an image of 5x3"),
        ({257: (4, [1000]), 322: (4, [1 << 19]), 323: (3, [16])}, "tiles of 524288x16 pixels for an image of 5x1000"),
        ({322: (3, [16384]), 323: (3, [16400])}, "tiles of 16384x16400 pixels for an image of 5x3"),
    ],
)
def test_tags_that_make_no_sense(changes: Mapping[int, tuple[int, list[int]]], words: str) -> None:
    status, reason = refusal(tiff(changes=changes))
    assert status == Status.corrupt and words in reason


def test_a_palette_that_is_too_short() -> None:
    assert read_header(tiff(changes={262: (3, [3])})).defect == "a palette of 0 numbers for 8 bits"
    assert "767 numbers" in read_header(tiff(changes={262: (3, [3]), 320: (3, [0] * 767)})).defect


def test_pictures_are_counted() -> None:
    at, second = 8 + 15, len(tiff())

    def chain(tag: int, value: int, following: int) -> int:
        data = tiff(after=second) + struct.pack("<HHHIII", 1, tag, 3, 1, value, following)
        return read_header(data).frames

    assert read_header(tiff()).frames == 1 == read_header(tiff(after=at)).frames  # in a circle
    assert chain(256, 5, 0) == chain(256, 5, at) == chain(256, 5, second) == chain(256, 5, 1 << 20) == 2
    assert chain(254, 1, 0) == chain(300, 5, 0) == 1  # a thumbnail, and nothing
    many = b"".join(struct.pack("<HHHIII", 1, 256, 3, 1, 5, second + 18 * (i + 1)) for i in range(100))
    header = read_header(tiff(after=second) + many)
    assert (header.frames, header.note) == (0, "the first of several pictures")


def test_a_chain_that_ends_with_the_file() -> None:
    """A second directory that is cut short is not the image's."""
    second = len(tiff())
    whole = tiff(after=second) + struct.pack("<HHHIII", 1, 256, 3, 1, 5, 0)
    for n in range(second, len(whole) + 1):
        assert read_header(whole[:n]).width == 5


@pytest.mark.parametrize(("start", "words"), [(b"IM*\0", "no byte-order mark"), (b"II,\0", "not a TIFF")])
def test_what_is_no_directory(start: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Directory(memoryview(start + b"\x08\0\0\0"))


def test_tags_of_other_kinds_are_no_tags() -> None:
    tags = Directory(memoryview(tiff(changes={300: (2, [5]), 301: (1, [7, 8, 9]), 302: (3, [])})))
    assert 300 not in tags and 302 not in tags and tags[301] == (7, 8, 9)
    assert set(tags) == {*GRAY, 301} and len(tags) == len(GRAY) + 1


def test_values_outside_the_file() -> None:
    for tag in (256, 258, 274):
        data = tiff(changes={**ONE_STRIP, tag: (3, [8, 8, 8])})
        assert read_header(data).height == 3
        assert "outside of the file" in refusal(data[:-1])[1]


@pytest.mark.parametrize("n", range(8))
def test_exif_that_cannot_be_read_turns_nothing(n: int) -> None:
    assert exif.orientation(memoryview(tiff(changes={274: (3, [6])})[:n])) == 1
    assert exif.orientation(memoryview(b"II*\0" + struct.pack("<I", 1 << n) + bytes(n))) == 1


def test_exif_without_an_orientation() -> None:
    assert exif.orientation(memoryview(tiff())) == 1
    data = memoryview(tiff(changes={**ONE_STRIP, 274: (3, [6, 6, 6])}))
    assert exif.orientation(data) == 6 and exif.orientation(data[:-1]) == 1
