"""GIF: the first frame, and how many there are."""

from __future__ import annotations

import struct

from metaqap_fast.formats.format import PILLOW, Format, Header, starts

_EXTENSION, _IMAGE, _END = 0x21, 0x2C, 0x3B
_LZW = 2731  # the most pixels that a byte can stand for: 4096 for a code of 12 bits


def parse(view: memoryview) -> Header:
    """GIF: whether the blocks are whole. A file may end without its last byte, as every viewer has it."""
    width, height, flags = struct.unpack_from("<HHB", view, 6)
    at, frames, defect = _table(13, flags), 0, ""
    while at < len(view) and view[at] != _END:
        if view[at] == _EXTENSION:
            at += 2
        elif view[at] == _IMAGE:
            left, top, wide, high, flags = struct.unpack_from("<HHHHB", view, at + 1)
            at = _table(at + 10, flags) + 1
            if not frames:
                width, height = max(width, left + wide), max(height, top + high)
                if wide * high > (len(view) - at) * _LZW:
                    defect = f"{len(view) - at} bytes of image data cannot hold {wide * high} pixels"
            frames += 1
        else:
            defect = defect or f"unknown block {view[at]:02X} at byte {at}"
            break
        while (size := view[at] if at < len(view) else -1) > 0:
            at += 1 + size
        if size < 0 or at + 1 > len(view):
            defect = defect or "truncated"
            break
        at += 1
    return Header(width, height, 1, defect if frames else defect or "no frame", frames=max(1, frames))


def _table(at: int, flags: int) -> int:
    """Where the colour table that `flags` tells of, at `at`, ends."""
    return at + (3 << (flags & 7) + 1 if flags & 0x80 else 0)


FORMAT = Format("GIF", starts(b"GIF87a", b"GIF89a"), parse, (".gif",), PILLOW)
