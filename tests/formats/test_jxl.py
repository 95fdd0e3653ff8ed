"""JPEG XL: sizes by every way of writing them, orientation, frames, colours; built bit by bit."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest

from made import jxl
from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats import read_header
from metaqap_fast.formats.icc import SRGB, from_cicp, profile


class Bits:
    """Writes numbers, least significant bit first."""

    def __init__(self) -> None:
        self.value = self.count = 0

    def put(self, *pairs: tuple[int, int]) -> Bits:
        for value, bits in pairs:
            self.value |= value << self.count
            self.count += bits
        return self

    def file(self) -> bytes:
        return b"\xff\x0a" + self.value.to_bytes((self.count + 7) // 8 + 8, "little")


def size(width: int, height: int) -> Bits:
    """A size in 30 bits a side."""
    return Bits().put((0, 1), (3, 2), (height - 1, 30), (0, 3), (3, 2), (width - 1, 30))


PLAIN = (1, 1)  # metadata: all as usual
NOTHING_EXTRA = ((0, 1), (0, 1), (0, 2), (0, 1), (0, 2))  # no extra fields, 8 bits, small buffers, no channel


@pytest.mark.parametrize(("choice", "bits"), [(0, 9), (1, 13), (2, 18), (3, 30)])
def test_sizes(choice: int, bits: int) -> None:
    data = Bits().put((0, 1), (choice, 2), (299, bits), (0, 3), (choice, 2), (499, bits), PLAIN).file()
    header = read_header(data)
    assert (header.width, header.height, header.orientation, header.frames) == (500, 300, 1, 1)
    small = Bits().put((1, 1), (3, 5), (0, 3), (9, 5), PLAIN).file()
    assert (read_header(small).width, read_header(small).height) == (80, 32)


@pytest.mark.parametrize(("ratio", "width"), [(1, 300), (2, 360), (3, 400), (4, 450), (5, 533), (6, 375), (7, 600)])
def test_ratios(ratio: int, width: int) -> None:
    header = read_header(Bits().put((0, 1), (0, 2), (299, 9), (ratio, 3), PLAIN).file())
    assert (header.width, header.height) == (width, 300)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("more", [False, True])
def test_orientation_and_frames(orientation: int, more: bool) -> None:
    bits = size(500, 300).put((0, 1), (1, 1), (orientation - 1, 3))
    if more:
        bits.put((1, 1), (1, 1), (3, 5), (0, 3), (9, 5))  # a size meant for the screen
        bits.put((1, 1), (0, 1), (1, 2), (5, 8), (1, 3))  # a preview
        bits.put((1, 1), (0, 2), (0, 2), (1, 2), (5, 3), (0, 1))  # an animation
    else:
        bits.put((0, 3))
    data = bits.put((0, 1), (0, 2), (0, 1), (0, 2), (1, 1), (1, 1)).file()
    header = read_header(data)
    assert header.orientation == orientation and header.note == ("the first of several pictures" if more else "")
    assert header.display_size == ((300, 500) if orientation > 4 else (500, 300))


def coloured(*fields: tuple[int, int], xyb: int = 0) -> bytes:
    return size(9, 9).put((0, 1), *NOTHING_EXTRA, (xyb, 1), (0, 1), *fields).file()


@pytest.mark.parametrize(
    ("fields", "icc"),
    [
        (((0, 1), (0, 2), (1, 2), (1, 2), (0, 1), (2, 2), (11, 4)), b""),  # sRGB
        (((0, 1), (0, 2), (1, 2), (2, 2), (9, 4), (0, 1), (2, 2), (11, 4)), from_cicp(12, 13)),  # Display P3
        (((0, 1), (1, 2), (1, 2), (0, 1), (2, 2), (11, 4)), b""),  # gray
        (((0, 1), (0, 2), (1, 2), (1, 2), (1, 1), (5_000_000, 24)), profile(SRGB, 2.0)),
    ],
)
def test_colours_by_number(fields: tuple[tuple[int, int], ...], icc: bytes) -> None:
    assert read_header(coloured(*fields)).icc == icc


@pytest.mark.parametrize(
    ("fields", "xyb", "words"),
    [
        (((1, 1), (0, 2)), 0, "compressed colour profile"),
        (((1, 1), (0, 2)), 1, "compressed colour profile"),  # which its decoder answers with light in 8 bits
        (((0, 1), (2, 2), (0, 4)), 0, "XYB"),
        (((0, 1), (0, 2), (1, 2), (1, 2), (0, 1), (2, 2), (14, 4)), 0, "PQ"),
        (((0, 1), (0, 2), (1, 2), (1, 2), (0, 1), (3, 2), (0, 6)), 1, "HLG"),
    ],
)
def test_colours_that_are_not_supported(fields: tuple[tuple[int, int], ...], xyb: int, words: str) -> None:
    with pytest.raises(ImageError, match=words) as error:
        read_header(coloured(*fields, xyb=xyb))
    assert error.value.status == Status.unsupported


@pytest.mark.parametrize(
    ("depth", "fields"),
    [
        (8, ((0, 1), (0, 2))),
        (10, ((0, 1), (1, 2))),
        (12, ((0, 1), (2, 2))),
        (9, ((0, 1), (3, 2), (8, 6))),
        (0, ((1, 1), (0, 2), (7, 4))),
    ],
)
@pytest.mark.parametrize("alpha", ["none", "as usual", "straight", "multiplied"])
def test_depth_and_alpha(depth: int, fields: tuple[tuple[int, int], ...], alpha: str) -> None:
    bits = size(9, 9).put((0, 1), (0, 1), *fields, (1, 1))
    if alpha == "none":
        bits.put((0, 2))
    elif alpha == "as usual":
        bits.put((1, 2), (1, 1))
    else:  # of 8 bits, as large as the picture, with a name of three letters
        bits.put((1, 2), (0, 1), (0, 2), (0, 1), (0, 2), (0, 2), (1, 2), (3, 4), (0x414141, 24))
        bits.put((alpha == "multiplied", 1))
    header = read_header(bits.put((1, 1), (1, 1)).file())
    assert (header.depth, header.premultiplied) == (depth, alpha == "multiplied")


def test_what_an_encoder_writes() -> None:
    rng = np.random.default_rng(0)
    for shape in ((30, 50, 3), (30, 50), (30, 50, 4), (2, 30, 50, 3)):
        for kind in (np.uint8, np.uint16):
            data = jxl(rng.integers(0, 255, shape).astype(kind))
            header = read_header(data)
            wanted = "linear" if kind == np.uint16 else "imagecodecs"  # the encoder takes 16 bits for light
            assert (header.width, header.height, header.decoder) == (50, 30, wanted)
            assert (header.frames == 0) == (len(shape) == 4)
            if data[:2] != b"\xff\x0a":  # 16 bits are put into boxes by the encoder itself
                continue
            boxed = b"\0\0\0\x0cJXL \r\n\x87\n" + struct.pack(">I4sI", len(data[:9]) + 12, b"jxlp", 0) + data[:9]
            boxed += struct.pack(">I4s", 12, b"jhgm") + bytes(4)
            boxed += struct.pack(">I4sI", len(data[9:]) + 12, b"jxlp", 1 << 31 | 1) + data[9:]
            again = read_header(boxed)
            assert (again.width, again.height, again.icc) == (50, 30, header.icc)
            assert again.note.endswith("its HDR gain map is ignored")


@pytest.mark.parametrize("n", range(2, 12))
def test_a_header_that_is_cut(n: int) -> None:
    data = size(500, 300).put((0, 1), (1, 1), (0, 3)).file()[:n]
    try:
        read_header(io.BytesIO(data).getvalue())
    except ImageError as error:
        assert error.status == Status.corrupt
