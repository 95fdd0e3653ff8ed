"""BMP of Windows and OS/2: how rows are samples, and whether all rows are there."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats.format import BMP, Format, Header

_CORE = 12  # bytes of the oldest header
_OS2 = (16, 64)
_SIZES = (_CORE, *_OS2, 40, 52, 56, 108, 124)
RGB, RLE8, RLE4, _MASKS, _ALPHA_MASKS = 0, 1, 2, 3, 6
_DEPTHS = {RGB: (1, 2, 4, 8, 16, 24, 32), RLE8: (8,), RLE4: (4,), _MASKS: (16, 32), _ALPHA_MASKS: (16, 32)}
_USUAL = {16: (0x7C00, 0x3E0, 0x1F), 32: (0xFF0000, 0xFF00, 0xFF)}  # masks of red, green and blue
_EMBEDDED = 0x4D424544  # the colour space of a file that holds a profile


@dataclass(frozen=True, slots=True)
class Layout:
    """How rows are samples: `depth` bits a pixel, rows filled up to four bytes, the lowest first unless `top_down`."""

    width: int
    height: int
    depth: int
    packing: int
    top_down: bool
    start: int  # where the rows begin
    palette: memoryview  # blue, green, red and, if `entry` is 4, nothing
    entry: int
    masks: tuple[int, ...]  # of red, green and blue, where a pixel has 16 or 32 bits

    @property
    def row_bytes(self) -> int:
        """Of a row that is not packed."""
        return (self.width * self.depth + 31) // 32 * 4


def parse(view: memoryview) -> Header:
    """BMP: whether all rows are there."""
    found = layout(view)
    end = found.start + found.row_bytes * found.height
    if found.packing in (RLE8, RLE4):  # only the file's own word for how long it is; its end is seen when it is decoded
        (end,) = struct.unpack_from("<I", view, 2)
    defect = f"truncated, {len(view)} of {end} bytes" if end > len(view) else ""
    return Header(found.width, found.height, 1, defect, icc=_profile(view))


def layout(view: memoryview) -> Layout:
    """What decides pixels.

    Raises:
        ImageError: `unsupported`.
        ValueError, struct.error: damaged.
    """
    start, size = struct.unpack_from("<II", view, 10)
    if size not in _SIZES:
        raise ValueError(f"a header of {size} bytes")
    packing = colours = 0
    if size == _CORE:
        width, height, _, depth = struct.unpack_from("<HHHH", view, 18)
    else:
        width, height, _, depth = struct.unpack_from("<iiHH", view, 18)
        if size != _OS2[0]:
            packing, colours = struct.unpack_from("<I12xI", view, 30)
    if packing not in _DEPTHS or (size in _OS2 and packing > RLE4):
        raise ImageError(Status.unsupported, f"BMP with compression {packing} is not supported")
    if depth not in _DEPTHS[packing]:
        raise ValueError(f"{depth} bits a pixel, compression {packing}")
    masks = _USUAL.get(depth, ())
    if packing in (_MASKS, _ALPHA_MASKS):
        masks = tuple(mask & (1 << depth) - 1 for mask in struct.unpack_from("<III", view, 54))
    at = 14 + size + (4 * (3 + (packing == _ALPHA_MASKS)) if size == 40 and packing in (_MASKS, _ALPHA_MASKS) else 0)
    entry = 3 if size == _CORE else 4
    count = min(colours or 1 << depth, 1 << depth, max(0, start - at) // entry) if depth <= 8 else 0
    if depth <= 8 and not count:
        raise ValueError("no palette")
    return Layout(
        width, abs(height), depth, packing, height < 0, start, view[at : at + count * entry], entry, masks
    )  # fmt: skip


def _profile(view: memoryview) -> bytes:
    if len(view) < 138 or struct.unpack_from("<I", view, 14)[0] != 124:
        return b""
    if struct.unpack_from("<I", view, 70)[0] != _EMBEDDED:
        return b""
    at, size = struct.unpack_from("<II", view, 126)
    return bytes(view[14 + at : 14 + at + size])


FORMAT = Format("BMP", lambda start: start[:2] == b"BM" and len(start) > 18, parse, (".bmp", ".dib", ".rle"), BMP)
