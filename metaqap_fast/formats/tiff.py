"""TIFF 6.0: the tags of one directory, which is also how EXIF is stored."""

from __future__ import annotations

import struct

from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats.header import Header

_KINDS = {1: "B", 3: "H", 4: "I"}
_WIDTH, _HEIGHT, _ORIENTATION = 256, 257, 274
_BITS, _COLOURS, _SAMPLE_FORMAT = 258, 262, 339
_PIECES = ((273, 279), (324, 325))  # (offsets, byte counts) of strips and of tiles


def parse(view: memoryview) -> Header:
    """The first directory's image; the others are not scored.

    Raises:
        ValueError, struct.error, IndexError: a damaged header.
    """
    endian, ifd = _start(view)
    _check_chain(view, endian, ifd)
    tags = _tags(view, endian, ifd)
    if _WIDTH not in tags or _HEIGHT not in tags:
        raise ValueError("no image size")
    _check_samples(view, endian, tags)
    width, height = (_values(view, endian, tags[tag])[0] for tag in (_WIDTH, _HEIGHT))
    turned = _values(view, endian, tags[_ORIENTATION])[0] if _ORIENTATION in tags else 1
    return Header("tiff", width, height, turned if 1 <= turned <= 8 else 1, _defect(view, endian, tags))


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


def _check_samples(view: memoryview, endian: str, tags: dict[int, tuple[str, int, int]]) -> None:
    """Only what every decoder converts alike: whole numbers of 8 or 16 bits in a colour model we know."""
    for bits in _values(view, endian, tags[_BITS]) if _BITS in tags else (1,):
        if bits not in (8, 16):
            raise ImageError(Status.unsupported, f"TIFF with {bits}-bit samples is not supported")
    if _SAMPLE_FORMAT in tags and set(_values(view, endian, tags[_SAMPLE_FORMAT])) != {1}:
        raise ImageError(Status.unsupported, "TIFF with samples that are not unsigned is not supported")
    colours = _values(view, endian, tags[_COLOURS])[0] if _COLOURS in tags else 1
    if colours not in (0, 1, 2, 3, 5, 6):  # gray, turned or not, RGB, palette, CMYK, YCbCr
        raise ImageError(Status.unsupported, f"TIFF with colour model {colours} is not supported")


def exif_orientation(view: memoryview) -> int:
    """EXIF is metadata: what cannot be read in it means 'not turned' (1), never a failed image."""
    try:
        endian, ifd = _start(view)
        tags = _tags(view, endian, ifd)
        value = _values(view, endian, tags[_ORIENTATION])[0]
    except (struct.error, LookupError, ValueError):
        return 1
    return value if 1 <= value <= 8 else 1


def _defect(view: memoryview, endian: str, tags: dict[int, tuple[str, int, int]]) -> str:
    for offsets, counts in _PIECES:
        if offsets in tags and counts in tags:
            pieces = zip(_values(view, endian, tags[offsets]), _values(view, endian, tags[counts]), strict=False)
            end = max((offset + count for offset, count in pieces), default=0)
            return f"{len(view)} of {end} bytes" if end > len(view) else ""
    return "no strips or tiles"


def _start(view: memoryview) -> tuple[str, int]:
    endian = {b"II": "<", b"MM": ">"}.get(bytes(view[:2]))
    if endian is None:
        raise ValueError("no byte-order mark")
    magic, ifd = struct.unpack_from(endian + "HI", view, 2)
    if magic != 42:
        raise ValueError("BigTIFF or not a TIFF")
    return endian, ifd


def _tags(view: memoryview, endian: str, ifd: int) -> dict[int, tuple[str, int, int]]:
    """Tag -> (struct code, number of values, where they are), for tags of whole numbers."""
    tags = {}
    (count,) = struct.unpack_from(endian + "H", view, ifd)
    for entry in range(ifd + 2, ifd + 2 + 12 * count, 12):
        tag, kind, n = struct.unpack_from(endian + "HHI", view, entry)
        code = _KINDS.get(kind)
        if code is None or n < 1:
            continue
        at = entry + 8
        if struct.calcsize(code) * n > 4:
            (at,) = struct.unpack_from(endian + "I", view, at)
        tags[tag] = code, n, at
    return tags


def _values(view: memoryview, endian: str, tag: tuple[str, int, int]) -> tuple[int, ...]:
    code, n, at = tag
    if at + n * struct.calcsize(code) > len(view):  # before room is made for four billion of them
        raise ValueError("a tag lies outside of the file")
    return struct.unpack_from(f"{endian}{n}{code}", view, at)
