"""BMP: whether all rows are there."""

from __future__ import annotations

import struct

from metaqap_fast.formats.format import Format, Header


def parse(view: memoryview) -> Header:
    """BMP: whether all rows are there."""
    start, size = struct.unpack_from("<II", view, 10)
    if size == 12:
        width, height, _, depth = struct.unpack_from("<HHHH", view, 18)
        packing = 0
    else:
        width, height, _, depth, packing = struct.unpack_from("<iiHHI", view, 18)
    rows = (width * depth + 31) // 32 * 4 * abs(height)
    if packing in (1, 2):  # run lengths: only the file's own word for how long it is
        start, rows = 0, struct.unpack_from("<I", view, 2)[0]
    defect = f"truncated, {len(view)} of {start + rows} bytes" if start + rows > len(view) else ""
    return Header(width, abs(height), 1, defect)


FORMAT = Format("BMP", lambda start: start[:2] == b"BM" and len(start) > 18, parse, (".bmp", ".dib"))
