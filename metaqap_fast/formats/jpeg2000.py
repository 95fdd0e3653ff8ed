"""JPEG 2000: the codestream, bare or inside a jp2 box."""

from __future__ import annotations

import re
import struct

from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats.format import Format, Header, starts

_END_OF_CODESTREAM = re.compile(rb"\xff\xd9")  # cannot occur in packed data


def parse(view: memoryview) -> Header:
    """JPEG 2000: the codestream, bare or inside a jp2 box, from its SIZ to its end marker."""
    at = bytes(view[:65536]).find(b"\xff\x4f\xff\x51")
    if at < 0:
        raise ValueError("no codestream")
    right, bottom, left, top = struct.unpack_from(">IIII", view, at + 8)
    (count,) = struct.unpack_from(">H", view, at + 40)
    depths = {view[at + 42 + 3 * i] + 1 for i in range(count)}
    if count not in (1, 3, 4):
        raise ImageError(Status.unsupported, f"JPEG 2000 with {count} components is not supported")
    if not depths <= {8, 16}:
        raise ImageError(Status.unsupported, f"JPEG 2000 with {max(depths)}-bit samples is not supported")
    defect = "" if _END_OF_CODESTREAM.search(view, at + 40) else "truncated, no end of codestream"
    return Header(right - left, bottom - top, 1, defect)


FORMAT = Format(
    "JPEG 2000",
    starts(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
    parse,
    (".jp2", ".j2k", ".jpx", ".j2c"),
)
