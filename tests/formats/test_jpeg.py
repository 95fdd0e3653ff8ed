"""JPEG's marker structure, segment by segment."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats import Header, read_header
from metaqap_fast.formats.scan import scanned

START, END = b"\xff\xd8", b"\xff\xd9"
TURNED = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"


def segment(marker: int, payload: bytes, fill: int = 1) -> bytes:
    return b"\xff" * fill + bytes([marker]) + struct.pack(">H", len(payload) + 2) + payload


def frame(
    width: int = 16, height: int = 8, factors: Sequence[int] = (0x11,), marker: int = 0xC0, precision: int = 8
) -> bytes:
    components = b"".join(bytes([i + 1, factor, 0]) for i, factor in enumerate(factors))
    return segment(marker, struct.pack(">BHHB", precision, height, width, len(factors)) + components)


def scan(data: bytes = bytes([1] * 64), components: Sequence[int] = (1,), table: int = 0) -> bytes:
    ids = b"".join(bytes([each, table]) for each in components)
    return segment(0xDA, bytes([len(components)]) + ids + b"\0\x3f\0") + data


def table(first: int, kind: int = 0x10) -> bytes:
    """A Huffman table of one code, all zeros, for this symbol."""
    return bytes([kind, 1]) + bytes(15) + bytes([first])


def jpeg(*parts: bytes) -> bytes:
    return START + b"".join(parts)


def defect(*parts: bytes) -> str:
    return read_header(jpeg(*parts)).defect


def refusal(*parts: bytes) -> tuple[Status, str]:
    with pytest.raises(ImageError) as error:
        read_header(jpeg(*parts))
    return error.value.status, error.value.reason


def test_sound() -> None:
    header = read_header(jpeg(frame(), scan(), END))
    assert header == Header(16, 8, 1, "", "dali", "JPEG")
    assert not defect(segment(0xE0, b"JFIF\0"), segment(0xFE, b"comment"), frame(), scan(), END, b"tail")


@pytest.mark.parametrize("fill", [1, 2, 9])
def test_fill_bytes_before_a_marker(fill: int) -> None:
    assert not defect(segment(0xE5, b"any", fill), frame(), segment(0xFE, b"", fill), scan(), b"\xff" * fill + END)


def test_it_ends_with_a_marker() -> None:
    assert defect(frame(), scan()) == "truncated, no end-of-image marker"
    assert defect(frame(), scan(), END[:1]) == "truncated, no end-of-image marker"
    assert defect(frame()) == "truncated, no end-of-image marker"


@pytest.mark.parametrize("marker", [0xD8, 0xC0, 0xC8, 0x02, 0xBF, 0xF0, 0x01])
def test_markers_that_cannot_stand_between_scans(marker: int) -> None:
    place = len(jpeg(frame(), scan())) + (2 if marker in (0xD8, 0x01) else 4)
    expected = f"unexpected marker FF{marker:02X} at byte {place}"
    assert defect(frame(), scan(), segment(marker, b""), scan(), END) == expected


@pytest.mark.parametrize("marker", [0xC4, 0xCC, 0xDB, 0xDC, 0xDD, 0xFE, 0xE0, 0xE9, 0xEF])
def test_markers_that_may(marker: int) -> None:
    assert not defect(frame(), scan(), segment(marker, b"\0\0"), scan(), END)


def test_no_marker_where_one_must_be() -> None:
    assert refusal(b"\xfe", frame())[0] == Status.unsupported  # then it is no JPEG
    assert "beyond the end of the file" in refusal(segment(0xE0, b"ab"), b"\0\xff\0")[1]
    assert "shorter than its own length field" in refusal(b"\xff\xe0\0\1", frame())[1]
    assert defect(frame(), b"\xff\xfe\0\1", scan(), END) == "segment shorter than its own length field"
    assert not defect(segment(0xE0, b""), frame(), scan(), END)  # only the length


@pytest.mark.parametrize("early", [scan(), START, END])
def test_image_data_before_a_frame_header(early: bytes) -> None:
    assert "before a frame header" in refusal(b"\xff\xfe\0\2", early, frame(), scan(), END)[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": 12, "marker": 0xC0}, "12-bit samples"),
        ({"precision": 16, "marker": 0xC1}, "16-bit samples"),
        ({"precision": 17, "marker": 0xC3}, "17-bit samples"),
        ({"precision": 12, "marker": 0xC1, "factors": [0x11] * 4}, "4 components"),
        ({"precision": 7}, "7-bit samples"),
        *(({"marker": 0xC0 + n}, f"SOF{n}") for n in (5, 6, 7, 11, 13, 14, 15)),
        ({"factors": [0x11] * 2}, "2 components"),
        ({"factors": [0x11] * 5}, "5 components"),
    ],
)
def test_refused(options: dict[str, object], words: str) -> None:
    status, reason = refusal(frame(**options), scan(), END)  # type: ignore[arg-type]
    assert status == Status.unsupported and words in reason


@pytest.mark.parametrize("marker", [0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA])
@pytest.mark.parametrize("count", [1, 3, 4])
def test_not_refused(marker: int, count: int) -> None:
    components = range(1, count + 1)
    header = read_header(jpeg(frame(factors=[0x11] * count, marker=marker), scan(components=components), END))
    assert not header.defect and header.decoder == ("pillow" if marker >= 0xC3 else "dali")


@pytest.mark.parametrize(("precision", "marker"), [(12, 0xC1), (12, 0xC2), (2, 0xC3), (12, 0xC3), (16, 0xC3)])
def test_more_bits(precision: int, marker: int) -> None:
    data = jpeg(frame(precision=precision, marker=marker), scan(), END)
    header = read_header(data)
    assert (header.decoder, header.depth, header.defect) == ("imagecodecs", precision, "")
    assert "run of zeros" in read_header(data[:-2] + bytes(700)).defect  # nobody can tell padding from loss


@pytest.mark.parametrize(
    ("marker", "payload"),
    [
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta hdrgm:Version='1.0'>"),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta HDRGainMap:HDRGainMapVersion='65536'>"),
        (0xE2, b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0"),
    ],
)
def test_gain_maps_are_said(marker: int, payload: bytes) -> None:
    """The second picture of such a file is the map."""
    several = b"MPF\0II*\0\x08\0\0\0\1\0\1\xb0\4\0\1\0\0\0\2\0\0\0\0\0\0\0"
    data = jpeg(segment(marker, payload), segment(0xE2, several), frame(), scan(), END)
    assert read_header(data).note == "its HDR gain map is ignored"
    assert read_header(jpeg(segment(0xE2, several), frame(), scan(), END)).note == "the first of 2 pictures"


def test_inks_with_a_profile_are_not_dalis() -> None:
    profile = segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(16) + b"CMYK" + bytes(200))
    inks = [0x11] * 4
    assert read_header(jpeg(profile, frame(factors=inks), scan(components=range(1, 5)), END)).decoder == "pillow"
    assert read_header(jpeg(frame(factors=inks), scan(components=range(1, 5)), END)).decoder == "dali"


@pytest.mark.parametrize("factor", [0x01, 0x10, 0x15, 0x51])
def test_sampling_factors(factor: int) -> None:
    assert refusal(frame(factors=[factor]), scan(), END)[0] == Status.corrupt
    assert not defect(frame(factors=[0x14]), scan(), END) and not defect(frame(factors=[0x41]), scan(), END)


def test_components_without_a_scan() -> None:
    head = frame(factors=[0x11] * 3)
    assert defect(head, scan(components=[1]), END) == "no image data for 2 of 3 components"
    assert defect(head, scan(components=[1]), scan(components=[2]), END) == "no image data for 1 of 3 components"
    assert not defect(head, scan(components=[1]), scan(components=[2, 3]), END)


@pytest.mark.parametrize(
    ("width", "height", "factors", "blocks"),
    [
        (800, 800, [0x11], 100 * 100),
        (801, 799, [0x11], 101 * 100),
        (800, 800, [0x22], 100 * 100),  # alone, factors mean nothing
        (800, 800, [0x11, 0x11, 0x11], 3 * 100 * 100),
        (800, 800, [0x22, 0x11, 0x11], 100 * 100 + 2 * 50 * 50),
        (801, 800, [0x21, 0x11, 0x11], 101 * 100 + 2 * 51 * 100),
        (800, 801, [0x12, 0x11, 0x11], 100 * 101 + 2 * 100 * 51),
        (800, 800, [0x11, 0x11, 0x11, 0x22], 3 * 50 * 50 + 100 * 100),
    ],
)
@pytest.mark.parametrize(("marker", "bits"), [(0xC0, 2), (0xC1, 2), (0xC2, 1)])
def test_data_for_its_blocks(width: int, height: int, factors: list[int], blocks: int, marker: int, bits: int) -> None:
    """A block takes two bits at least, one in a progressive file."""
    least, components = blocks * bits // 8, range(1, len(factors) + 1)
    head = frame(width, height, factors, marker)
    for length, words in ((least, ""), (least - 1, f"{least - 1} bytes of image data cannot hold {blocks} blocks")):
        once = scan(bytes([1] * length), components)
        twice = scan(bytes([1] * (length - 5)), components) + scan(bytes([1] * 5), components)
        assert defect(head, once, END) == defect(head, twice, END) == words


def restarts(*numbers: int) -> bytes:
    return bytes([1] * 20) + b"".join(bytes([0xFF, 0xD0 + n]) + bytes([1] * 20) for n in numbers)


INTERVAL = segment(0xDD, b"\0\4")


@pytest.mark.parametrize("numbers", [[], [0], [0, 1, 2], [*range(8), 0, 1]])
def test_restart_markers_in_their_order(numbers: list[int]) -> None:
    assert not defect(INTERVAL, frame(), scan(restarts(*numbers)), END)
    assert not defect(frame(), INTERVAL, scan(restarts(*numbers)), END)
    if numbers:
        assert defect(frame(), scan(restarts(*numbers)), END) == "restart markers where there are none"
        none = segment(0xDD, b"\0\0")
        assert defect(INTERVAL, frame(), none, scan(restarts(*numbers)), END).endswith("where there are none")


@pytest.mark.parametrize("numbers", [[1], [0, 2], [0, 0], [*range(8), 1]])
def test_restart_markers_out_of_order(numbers: list[int]) -> None:
    assert defect(INTERVAL, frame(), scan(restarts(*numbers)), END) == "restart markers out of order"


def test_stuffed_bytes_are_data() -> None:
    assert not defect(frame(), scan(b"\xff\0" * 40), END)


@pytest.mark.parametrize(("first", "zeroed"), [(0x00, False), (0x01, True), (0xF0, True)])
def test_a_sector_that_was_never_written(first: int, zeroed: bool) -> None:
    """Zeros are a picture where the code of all zeros is the end of a block, and else none."""
    tables = segment(0xC4, table(first))
    data = bytes([1] * 30) + bytes(64) + bytes([1] * 30)
    assert defect(tables, frame(), scan(data), END) == ("a run of zeros in the image data" if zeroed else "")
    assert not defect(tables, frame(), scan(data.replace(bytes(64), bytes(63))), END)
    assert not defect(tables, frame(marker=0xC2), scan(data), END)  # a progressive scan may be long without news


def test_which_table_a_scan_uses() -> None:
    data = bytes([1] * 30) + bytes(64) + bytes([1])
    tables = segment(0xC4, table(0x00, 0x10) + table(0x01, 0x11) + table(0x01, 0x00))  # AC 0, AC 1, DC 0
    assert not defect(tables, frame(), scan(data, table=0x00), END)
    assert defect(tables, frame(), scan(data, table=0x01), END) == "a run of zeros in the image data"
    assert not defect(tables, frame(), scan(data, table=0x10), END)
    empty = segment(0xC4, bytes([0x12]) + bytes(16))
    assert not defect(empty, frame(), scan(data, table=0x02), END)


STRAY = [b"\0", b"?>", b"\xff\0", b"\xff\x01", b"\xff\xd0", b"\0\xe1\0\x10" + b"x" * 14, bytes(511)]


@pytest.mark.parametrize("stray", STRAY, ids=range(len(STRAY)))
def test_stray_bytes_between_segments_are_left_out(stray: bytes) -> None:
    parts = [segment(0xE0, b"JFIF\0"), segment(0xDB, b"tables"), frame(), segment(0xFE, b"words"), scan(), END, b"tail"]
    for place in range(1, 5):
        dirty = read_header(jpeg(*parts[:place], stray, *parts[place:]))
        assert not dirty.defect and b"".join(dirty.parts) == jpeg(*parts) and dirty.decoder == "dali"
    assert read_header(jpeg(*parts)).parts == ()
    several = read_header(jpeg(parts[0], stray, *parts[1:4], stray, *parts[4:]))
    assert b"".join(several.parts) == jpeg(*parts)


def test_a_zeroed_sector_between_segments_is_damage() -> None:
    assert refusal(segment(0xE0, b"a"), bytes(512), frame(), scan(), END)[0] == Status.corrupt
    assert defect(frame(), bytes(512), scan(), END) == "a run of zeros behind byte 15"


@pytest.mark.parametrize("zeros", [64, 5000])
def test_zeros_at_the_end_of_the_image_data_are_for_a_decoder_to_judge(zeros: int) -> None:
    tables, data = segment(0xC4, table(0x01)), bytes([1] * 60 + [0xFF, 0])
    whole = jpeg(tables, frame(), scan(data), END)
    for end in (END, b"", END + b"tail"):
        padded = read_header(jpeg(tables, frame(), scan(data + bytes(zeros)), end))
        assert (padded.decoder, padded.defect, b"".join(padded.parts)) == ("pillow, whole", "", whole)
    again = scan(data + bytes(zeros)) + bytes([1]) + END
    assert defect(tables, frame(), again) == "a run of zeros in the image data"
    assert defect(tables, frame(), scan(data + bytes(62))) == "truncated, no end-of-image marker"


def test_inks_without_adobes_marker_get_one() -> None:
    inks = [frame(factors=[0x11] * 4), scan(components=range(1, 5)), END]
    adobe = segment(0xEE, b"Adobe\0\x64\0\0\0\0\0")
    assert b"".join(read_header(jpeg(*inks)).parts) == jpeg(adobe, *inks)
    assert read_header(jpeg(adobe, *inks)).parts == () == read_header(jpeg(inks[0], adobe, *inks[1:])).parts
    cut = segment(0xEE, b"Adobe\0\x64\0\0\0\0")  # too short to be read
    assert b"".join(read_header(jpeg(cut, *inks)).parts) == jpeg(adobe, cut, *inks)


def test_a_profile_in_several_segments() -> None:
    parts = [segment(0xE2, b"ICC_PROFILE\0" + bytes([i, 3]) + bytes([i] * 9)) for i in (2, 1, 3)]
    header = read_header(jpeg(*parts, frame(), scan(), END))
    assert header.icc == bytes([1] * 9 + [2] * 9 + [3] * 9)
    assert read_header(jpeg(frame(), *parts, scan(), END)).icc == header.icc
    assert read_header(jpeg(frame(), scan(), *parts, scan(), END)).icc == b""


def test_a_file_of_several_pictures() -> None:
    index = b"MPF\0II*\0\x08\0\0\0\1\0\1\xb0\4\0\1\0\0\0\3\0\0\0"
    header = read_header(jpeg(segment(0xE2, index), frame(), scan(), END))
    assert (header.frames, header.note) == (3, "the first of 3 pictures")
    assert read_header(jpeg(segment(0xE2, index[:9]), frame(), scan(), END)).frames == 1


def test_orientation() -> None:
    other = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0")
    header = read_header(jpeg(other, segment(0xE1, TURNED), frame(), scan(), END))
    assert (header.width, header.height, header.orientation, header.display_size) == (16, 8, 6, (8, 16))


def test_exif_may_stand_behind_the_frame_header_but_not_behind_a_scan() -> None:
    exif = segment(0xE1, TURNED)
    assert read_header(jpeg(frame(), exif, scan(), END)).orientation == 6
    assert read_header(jpeg(frame(), scan(), exif, scan(), END)).orientation == 1


def test_the_first_orientation_counts() -> None:
    first, second = segment(0xE1, TURNED), segment(0xE1, TURNED.replace(b"\x06", b"\x03"))
    assert read_header(jpeg(first, second, frame(), scan(), END)).orientation == 6
    assert read_header(jpeg(second, first, frame(), scan(), END)).orientation == 3
    assert read_header(jpeg(segment(0xE2, TURNED), frame(), scan(), END)).orientation == 1


def first_marker(data: bytes, at: int) -> int | None:
    """By the rule: fill, then neither 00 nor the end."""
    while (at := data.find(b"\xff", at)) >= 0:
        behind = len(data[at:]) - len(data[at:].lstrip(b"\xff"))
        if data[at + behind : at + behind + 1] not in (b"", b"\0"):
            return at
        at += behind
    return None


@given(st.lists(st.sampled_from([b"\0", b"\xff", b"\xd9", b"a", bytes(7)])).map(b"".join), st.integers(0, 9))
def test_the_end_of_a_scan_is_its_first_marker(data: bytes, at: int) -> None:
    assert scanned(memoryview(START + data), at + 2, restarts=False).end == first_marker(START + data, at + 2)
