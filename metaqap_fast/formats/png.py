"""PNG: checksums of the chunks that make the picture."""

from __future__ import annotations

import struct
import zlib

from metaqap_fast.formats import exif
from metaqap_fast.formats.format import Format, Header, starts

_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG's colour type
_DEFLATE = 1032  # the most that one byte of deflated data can stand for


def parse(view: memoryview) -> Header:
    """PNG: the checksums of the chunks that make the picture, and whether they can hold it."""
    length, kind, width, height, depth, colour = struct.unpack_from(">I4sIIBB", view, 8)
    if kind != b"IHDR" or length != 13:
        raise ValueError("IHDR is not the first chunk")
    if colour not in _CHANNELS:
        raise ValueError(f"colour type {colour}")
    orientation, at, packed, defect = 1, 8, 0, "truncated, no IEND chunk"
    while at + 12 <= len(view):  # eXIf may stand before or after the pixels
        length, kind = struct.unpack_from(">I4s", view, at)
        end = at + 12 + length
        if end > len(view):
            break
        if kind in _CRITICAL and zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            defect = f"wrong checksum of {kind.decode()} at byte {at}"
            break
        packed += length if kind == b"IDAT" else 0
        if kind == b"eXIf":
            orientation = exif.orientation(view[at + 8 : end - 4])
        if kind == b"IEND":
            raw = height * (1 + width * depth * _CHANNELS[colour] // 8)
            defect = "" if packed * _DEFLATE >= raw else f"{packed} bytes of image data cannot hold {raw}"
            break
        at = end
    return Header(width, height, orientation, defect)


FORMAT = Format("PNG", starts(b"\x89PNG\r\n\x1a\n"), parse, (".png",))
