"""TIFF 6.0: the image of the first directory."""

from __future__ import annotations

import struct

from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats.directory import Directory
from metaqap_fast.formats.format import Format, Header, starts

_WIDTH, _HEIGHT = 256, 257
_BITS, _COLOURS, _SAMPLE_FORMAT = 258, 262, 339
_PIECES = ((273, 279), (324, 325))  # (offsets, byte counts) of strips and of tiles


def parse(view: memoryview) -> Header:
    """TIFF: the first directory's image; the others are not scored."""
    tags = Directory(view)
    _check_chain(view, tags.endian, tags.at)
    if _WIDTH not in tags or _HEIGHT not in tags:
        raise ValueError("no image size")
    _check_samples(tags)
    return Header(tags[_WIDTH][0], tags[_HEIGHT][0], tags.orientation(), _defect(len(view), tags))


def _check_chain(view: memoryview, endian: str, ifd: int) -> None:
    """A chain of directories that comes back to itself; decoders differ in whether they walk it."""
    seen = set()
    while ifd and ifd + 2 <= len(view):
        if ifd in seen:
            raise ValueError("directories point at each other")
        seen.add(ifd)
        end = ifd + 2 + 12 * struct.unpack_from(endian + "H", view, ifd)[0]
        if end + 4 > len(view):
            break
        (ifd,) = struct.unpack_from(endian + "I", view, end)


def _check_samples(tags: Directory) -> None:
    """Only what every decoder converts alike: whole numbers of 8 or 16 bits in a colour model we know."""
    for bits in tags.get(_BITS, (1,)):
        if bits not in (8, 16):
            raise ImageError(Status.unsupported, f"TIFF with {bits}-bit samples is not supported")
    if set(tags.get(_SAMPLE_FORMAT, (1,))) != {1}:
        raise ImageError(Status.unsupported, "TIFF with samples that are not unsigned is not supported")
    colours = tags.get(_COLOURS, (1,))[0]
    if colours not in (0, 1, 2, 3, 5, 6):  # gray, turned or not, RGB, palette, CMYK, YCbCr
        raise ImageError(Status.unsupported, f"TIFF with colour model {colours} is not supported")


def _defect(nbytes: int, tags: Directory) -> str:
    for offsets, counts in _PIECES:
        if offsets in tags and counts in tags:
            end = max((at + count for at, count in zip(tags[offsets], tags[counts], strict=False)), default=0)
            return f"truncated, {nbytes} of {end} bytes" if end > nbytes else ""
    return "no strips or tiles"


FORMAT = Format("TIFF", starts(b"II*\0", b"MM\0*"), parse, (".tif", ".tiff"))
