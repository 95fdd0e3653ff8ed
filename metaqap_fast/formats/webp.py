"""WebP: simple, lossless and extended files."""

from __future__ import annotations

import struct

from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats import exif
from metaqap_fast.formats.format import Format, Header


def parse(view: memoryview) -> Header:
    """WebP: the length that RIFF states."""
    size, kind = struct.unpack_from("<I4x4s", view, 4)
    defect = f"truncated, {len(view)} of {size + 8} bytes" if size + 8 > len(view) else ""
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", view, 26)
        return Header(width & 0x3FFF, height & 0x3FFF, 1, defect)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", view, 21)
        return Header((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, 1, defect)
    if kind != b"VP8X":
        raise ValueError("unknown first chunk")
    if view[20] & 2:
        raise ImageError(Status.unsupported, "animated WebP is not supported")
    width, height = (int.from_bytes(view[i : i + 3], "little") + 1 for i in (24, 27))
    if len(view) < 30:
        raise ValueError("no size")
    orientation, at = 1, 12
    while at + 8 <= len(view):
        kind, length = struct.unpack_from("<4sI", view, at)
        if kind == b"EXIF":
            payload = view[at + 8 : at + 8 + length]
            orientation = exif.orientation(payload[6:] if bytes(payload[:6]) == b"Exif\0\0" else payload)
        at += 8 + length + (length & 1)
    return Header(width, height, orientation, defect)


FORMAT = Format("WebP", lambda start: start[:4] == b"RIFF" and start[8:12] == b"WEBP", parse, (".webp",))
