"""JPEG 2000: the codestream, bare or in the boxes of a jp2 file."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats.format import PILLOW, Format, Header, starts

_START = b"\xff\x4f\xff\x51"
_END_OF_CODESTREAM = re.compile(rb"\xff\xd9")  # cannot occur in packed data
_SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
_SPACES = {12: 4, 16: 3, 17: 1, 18: 3}  # CMYK, sRGB, gray and sYCC: how many components
_SYCC = 18
_SUPERBOX = b"jp2h"


@dataclass(slots=True)
class _Boxes:
    """What stands in boxes."""

    codestream: int = -1
    space: int = 0  # enumerated; 0: not said
    icc: bytes = b""
    palette: bool = False


def parse(view: memoryview) -> Header:
    """JPEG 2000: from its SIZ to its end marker."""
    found = _Boxes(0) if bytes(view[:4]) == _START else _in_boxes(view)
    at = found.codestream
    if at < 0 or bytes(view[at : at + 4]) != _START:
        raise ValueError("no codestream")
    right, bottom, left, top = struct.unpack_from(">IIII", view, at + 8)
    (count,) = struct.unpack_from(">H", view, at + 40)
    _check_components([tuple(view[at + 42 + 3 * i : at + 45 + 3 * i]) for i in range(count)], found)
    if right <= left or bottom <= top:
        raise ValueError(f"an image from {left}, {top} to {right}, {bottom}")
    defect = "" if _END_OF_CODESTREAM.search(view, at + 40) else "truncated, no end of codestream"
    return Header(right - left, bottom - top, 1, defect, icc=found.icc)


def _in_boxes(view: memoryview) -> _Boxes:
    found = _Boxes()
    for kind, start, end in _boxes(view, 0, len(view)):
        if kind == b"jp2c":
            found.codestream = start
            break
        if kind == _SUPERBOX:
            for inner, first, last in _boxes(view, start, end):
                if inner == b"pclr":
                    found.palette = True
                elif inner == b"colr" and not (found.space or found.icc):  # the first counts
                    if view[first] == 1:
                        (found.space,) = struct.unpack_from(">I", view, first + 3)
                    elif view[first] in (2, 3):
                        found.icc = bytes(view[first + 3 : last])
    return found


def _boxes(view: memoryview, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of the contents of each box; a length of 0 goes to the end, of 1 stands behind the kind."""
    while at + 8 <= end:
        length, kind = struct.unpack_from(">I4s", view, at)
        start = at + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", view, start)
            start += 8
        last = at + length if length else end
        if last < start:
            raise ValueError(f"a box of {length} bytes")
        yield kind, start, min(last, end)
        at = last


def _check_components(components: list[tuple[int, ...]], found: _Boxes) -> None:
    """Each is (bits - 1 and a sign, steps across, steps down)."""
    if any(len(each) < 3 or not each[1] or not each[2] for each in components):
        raise ValueError("components without a size")
    count = len(components)
    if not 1 <= count <= 4:
        raise ImageError(Status.unsupported, f"JPEG 2000 with {count} components is not supported")
    if found.space and not found.palette and _SPACES.get(found.space, 9) > count:
        raise ImageError(
            Status.unsupported, f"JPEG 2000 with colour space {found.space} of {count} components is not supported"
        )
    bits = {(each[0] & 0x7F) + 1 for each in components}
    if max(bits) > 16:
        raise ImageError(Status.unsupported, f"JPEG 2000 with {max(bits)}-bit samples is not supported")
    if any(each[0] & 0x80 for each in components[: 1 if count < 3 else 3]) and found.space != _SYCC:
        raise ImageError(Status.unsupported, "JPEG 2000 with samples that are not unsigned is not supported")
    if components[0][1:] != (1, 1):
        raise ImageError(Status.unsupported, "JPEG 2000 whose first component is not of full size is not supported")


FORMAT = Format(
    "JPEG 2000", starts(_SIGNATURE, _START), parse, (".jp2", ".j2k", ".jpx", ".j2c", ".jpf", ".jpc"), PILLOW
)
