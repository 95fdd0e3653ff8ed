"""JPEG XL (ISO/IEC 18181): the header of the codestream, bare or in boxes."""

from __future__ import annotations

from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats.boxes import boxes
from metaqap_fast.formats.format import CODECS, GAIN_MAP, LINEAR, Format, Header, starts
from metaqap_fast.formats.icc import SRGB, from_cicp, profile

_CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
_HEAD = 1 << 14  # bytes of a codestream that its header can take: 4096 extra channels with names are more than any has
_RATIOS = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))

# The ways in which a number is stored: for each of four, (what is added, bits).
_Ways = tuple[tuple[int, int], ...]
_SIDE: _Ways = ((1, 9), (1, 13), (1, 18), (1, 30))
_PREVIEW_8: _Ways = ((16, 0), (32, 0), (1, 5), (33, 9))
_PREVIEW: _Ways = ((1, 6), (65, 8), (321, 10), (1345, 12))
_ENUM: _Ways = ((0, 0), (1, 0), (2, 4), (18, 6))
_WHOLE: _Ways = ((8, 0), (10, 0), (12, 0), (1, 6))
_FLOAT: _Ways = ((32, 0), (16, 0), (24, 0), (1, 6))
_XY: _Ways = ((0, 19), (524288, 19), (1048576, 20), (2097152, 21))
_ALPHA, _SPOT, _BLACK, _CFA = 0, 2, 4, 5  # kinds of extra channels
_GRAY, _XYB = 1, 2  # colour spaces
_CUSTOM = 2  # white point and primaries
_LIGHT, _SRGB = 8, 13  # curves
_WHITES = {1: (0.3127, 0.3290), 10: (1 / 3, 1 / 3), 11: (0.314, 0.351)}
_PRIMARIES = {1: 1, 9: 9, 11: 12}  # numbers of the format and of H.273


class _Bits:
    """Numbers of any length, least significant bit first. Beyond the end: IndexError."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, bits: int) -> int:
        self._left -= bits
        if self._left < 0:
            raise IndexError("the codestream ends in its header")
        value = self._value & (1 << bits) - 1
        self._value >>= bits
        return value

    def number(self, ways: _Ways) -> int:
        base, bits = ways[self.take(2)]
        return base + self.take(bits)


def parse(view: memoryview) -> Header:
    """JPEG XL: size, orientation, colours and whether it moves; only a full decode tells whether all of it is there."""
    head, gain_map = _codestream(view)
    if head[:2] != b"\xff\x0a":
        raise ValueError("no codestream")
    bits = _Bits(head[2:])
    width, height = _size(bits)
    orientation, frames, icc, decoder, depth, premultiplied = 1, 1, b"", CODECS, 8, False
    if not bits.take(1):  # else everything is as usual
        if bits.take(1):
            orientation = 1 + bits.take(3)
            if bits.take(1):
                _size(bits)
            if bits.take(1):
                _size(bits, _PREVIEW_8, _PREVIEW)
            if bits.take(1):
                frames = 0
                for ways in (((100, 0), (1000, 0), (1, 10), (1, 30)), ((1, 0), (1001, 0), (1, 8), (1, 10)),
                             ((0, 0), (0, 3), (0, 16), (0, 32))):  # fmt: skip
                    bits.number(ways)
                bits.take(1)
        depth = _depth(bits)
        bits.take(1)
        extra = [_extra(bits) for _ in range(bits.number(((0, 0), (1, 0), (2, 4), (1, 12))))]
        premultiplied = any(extra)
        bits.take(1)  # coded by what the eye sees, or as it was
        icc, decoder = _colours(bits)
    note = GAIN_MAP if gain_map else ""
    return Header(
        width, height, orientation, decoder=decoder, icc=icc, depth=depth, premultiplied=premultiplied, frames=frames,
        note=note,
    )  # fmt: skip


def _codestream(view: memoryview) -> tuple[bytes, bool]:
    """The start of the codestream, and whether there is a gain map beside it."""
    if bytes(view[:2]) == b"\xff\x0a":
        return bytes(view[:_HEAD]), False
    head, gain_map = b"", False
    for kind, content in boxes(view):
        if kind in (b"jxlc", b"jxlp") and len(head) < _HEAD:
            head += bytes(content[4 if kind == b"jxlp" else 0 :][:_HEAD])
        gain_map = gain_map or kind == b"jhgm"
    return head[:_HEAD], gain_map


def _size(bits: _Bits, eighths: _Ways | None = None, whole: _Ways = _SIDE) -> tuple[int, int]:
    """(width, height) of the image; of its preview, with the ways of storing that has."""
    small = bits.take(1)

    def side() -> int:
        if not small:
            return bits.number(whole)
        return 8 * (bits.number(eighths) if eighths else 1 + bits.take(5))

    height = side()
    ratio = bits.take(3)
    over, under = _RATIOS[ratio]
    return (height * over // under if ratio else side()), height


def _depth(bits: _Bits) -> int:
    """Bits of a sample; 0 for fractions."""
    if bits.take(1):
        bits.number(_FLOAT)
        bits.take(4)
        return 0
    return bits.number(_WHOLE)


def _extra(bits: _Bits) -> bool:
    """One more channel, such as alpha: whether colours were multiplied by it."""
    if bits.take(1):
        return False
    kind = bits.number(_ENUM)
    _depth(bits)
    bits.number(((0, 0), (3, 0), (4, 0), (1, 3)))
    bits.take(8 * bits.number(((0, 0), (0, 4), (16, 5), (48, 10))))  # its name
    if kind == _ALPHA:
        return bits.take(1) == 1
    if kind == _SPOT:
        bits.take(64)
    elif kind == _CFA:
        bits.number(((1, 0), (0, 2), (3, 4), (19, 8)))
    elif kind == _BLACK:
        raise ImageError(Status.unsupported, "JPEG XL in CMYK is not supported")
    return False


def _colours(bits: _Bits) -> tuple[bytes, str]:
    """The decoder, and the profile of what it gives."""
    if bits.take(1):
        return b"", CODECS
    by_profile, space = bits.take(1), bits.number(_ENUM)
    if by_profile:  # which the decoder keeps to itself: it gives light in 8 bits then, or samples of who knows what
        raise ImageError(Status.unsupported, "JPEG XL with a compressed colour profile is not supported")
    if space == _XYB:
        raise ImageError(Status.unsupported, "JPEG XL in the XYB colour space is not supported")
    white = bits.number(_ENUM)
    points = [_WHITES.get(white, SRGB[3]) if white != _CUSTOM else _xy(bits)]
    primaries = 1 if space == _GRAY else bits.number(_ENUM)
    if primaries == _CUSTOM:
        points = [_xy(bits), _xy(bits), _xy(bits), *points]
    gamma = bits.take(24) / 1e7 if bits.take(1) else 0.0
    transfer = 0 if gamma else bits.number(_ENUM)
    # Eight bits are too few for light as it is: the decoder gives it sRGB's curve.
    decoder, transfer = (LINEAR, _SRGB) if transfer == _LIGHT else (CODECS, transfer)
    if primaries == _CUSTOM or gamma:
        chromaticities = tuple(points) if len(points) == 4 else SRGB
        return profile(chromaticities, 1 / gamma if gamma else 0.0), decoder
    return from_cicp(_PRIMARIES.get(primaries, 2), transfer), decoder


def _xy(bits: _Bits) -> tuple[float, float]:
    numbers = [bits.number(_XY) for _ in range(2)]
    x, y = ((number >> 1) ^ -(number & 1) for number in numbers)
    return x / 1e6, y / 1e6


FORMAT = Format("JPEG XL", starts(b"\xff\x0a", _CONTAINER), parse, (".jxl",), CODECS)
