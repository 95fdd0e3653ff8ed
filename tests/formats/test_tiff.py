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
    assert (wide.width, wide.height) == (70_000, 3)


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize(("value", "orientation"), [*((i, i) for i in range(1, 9)), (0, 1), (9, 1), (65535, 1)])
def test_orientation(endian: str, value: int, orientation: int) -> None:
    data = tiff(endian, {274: (3, [value])})
    assert read_header(data).orientation == exif.orientation(memoryview(data)) == orientation


@pytest.mark.parametrize("tags", [(273, 279), (324, 325)])  # strips, tiles
def test_every_piece_has_to_be_there(tags: tuple[int, int]) -> None:
    size = len(tiff(changes={273: None, 279: None, tags[0]: (4, [8, 23]), tags[1]: (4, [10, 5])}))
    for last, defect in ((size - 23, ""), (size - 22, f"truncated, {size} of {size + 1} bytes")):
        changes = {273: None, 279: None, tags[0]: (4, [8, 23]), tags[1]: (4, [10, last])}
        assert read_header(tiff(changes=changes)).defect == defect
        turned = {**changes, tags[0]: (4, [23, 8]), tags[1]: (4, [last, 10])}  # in no order
        assert read_header(tiff(changes=turned)).defect == defect


@pytest.mark.parametrize("missing", [273, 279])
def test_no_pieces(missing: int) -> None:
    assert read_header(tiff(changes={missing: None})).defect == "no strips or tiles"


@pytest.mark.parametrize("missing", [256, 257])
def test_no_size(missing: int) -> None:
    assert refusal(tiff(changes={missing: None})) == (
        Status.corrupt, "TIFF: damaged or truncated header (no image size)",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({258: (3, [1])}, "1-bit samples"),
        ({258: None}, "1-bit samples"),  # is what its absence means
        ({258: (3, [8, 8, 12])}, "12-bit samples"),
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
        {339: (3, [1, 1, 1])},
        {262: None},
        *({262: (3, [model])} for model in (0, 1, 2, 3, 5, 6)),
    ],
)
def test_not_refused(changes: Mapping[int, tuple[int, list[int]]]) -> None:
    assert not read_header(tiff(changes=changes)).defect


def test_directories_in_a_circle() -> None:
    at = 8 + 15
    assert "point at each other" in refusal(tiff(after=at))[1]
    second = len(tiff())
    for last, sound in ((0, True), (at, False), (second, False), (1 << 20, True)):  # beyond the end is no circle
        data = tiff(after=second) + struct.pack("<HHHIII", 1, 256, 3, 1, 5, last)
        if sound:
            assert read_header(data).width == 5
        else:
            assert "point at each other" in refusal(data)[1]


def test_a_chain_that_ends_with_the_file() -> None:
    """A second directory that is cut short is not the image's."""
    second = len(tiff())
    whole = tiff(after=second) + struct.pack("<HHHIII", 1, 256, 3, 1, 5, 0)
    for n in range(second, len(whole) + 1):
        assert read_header(whole[:n]).width == 5


@pytest.mark.parametrize(("start", "words"), [(b"IM*\0", "no byte-order mark"), (b"II+\0", "BigTIFF")])
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
