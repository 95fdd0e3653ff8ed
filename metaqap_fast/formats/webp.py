"""WebP: simple, lossless and extended files.

The decoder gets the picture's own chunk alone, as a simple file: what stands beside it is read here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from metaqap_fast.formats import exif
from metaqap_fast.formats.format import PILLOW, Format, Header

_ANIMATED, _EXIF, _ICC = 2, 8, 32  # flags of an extended file: what is not announced is not read, as by libwebp
_PREFIX = b"Exif\0\0"  # of JPEG's EXIF, which some writers put here too
_MORE = bytes(32)  # behind a file that has fewer: OpenCV, in DALI, reads none of 31 bytes
_START = b"\x9d\x01\x2a"  # of a lossy key frame


def parse(view: memoryview) -> Header:
    """WebP: the length that RIFF states, and the chunks in it."""
    size, first = struct.unpack_from("<I4x4s", view, 4)
    if first not in (b"VP8 ", b"VP8L", b"VP8X"):
        raise ValueError("unknown first chunk")
    end = min(len(view), size + 8)
    chunks = list(_chunks(view[:end]))
    defect = f"truncated, {len(view)} of {size + 8} bytes" if size + 8 > len(view) else ""
    found: dict[bytes, memoryview] = {}
    for kind, chunk in chunks:
        found.setdefault(kind, chunk)  # the first of its kind counts
    if first != b"VP8X":
        return Header(*_size(first, found[first]), defect=defect, parts=(view, _MORE) if len(view) < len(_MORE) else ())
    flags = found[b"VP8X"][0]
    if len(found[b"VP8X"]) < 10:
        raise ValueError("no size")
    width, height = (int.from_bytes(found[b"VP8X"][i : i + 3], "little") + 1 for i in (4, 7))
    block = found.get(b"EXIF", view[:0])
    if block[: len(_PREFIX)] == _PREFIX:
        block = block[len(_PREFIX) :]
    orientation = exif.orientation(block) if flags & _EXIF else 1
    icc = bytes(found.get(b"ICCP", b"")) if flags & _ICC else b""
    if flags & _ANIMATED:
        frames = sum(kind == b"ANMF" for kind, _ in chunks)
        defect = defect or ("" if frames else "an animation without frames")
        return Header(width, height, orientation, defect, PILLOW, icc=icc, frames=frames or 1)
    kind, chunk = next(((kind, chunk) for kind, chunk in chunks if kind in (b"VP8 ", b"VP8L")), (b"", view[:0]))
    if not kind:
        return Header(width, height, orientation, defect or "no image data", icc=icc)
    if _size(kind, chunk) != (width, height):
        raise ValueError(f"a picture of {_size(kind, chunk)} pixels on a canvas of {(width, height)}")
    pad = len(chunk) & 1
    head = struct.pack("<4sI4s4sI", b"RIFF", 12 + len(chunk) + pad, b"WEBP", kind, len(chunk))
    more = _MORE if len(head) + len(chunk) + pad < len(_MORE) else b""
    return Header(width, height, orientation, defect, parts=(head, chunk, bytes(pad), more), icc=icc)


def _chunks(view: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """(kind, payload) of each; RIFF fills up odd ones with a byte."""
    at = 12
    while at + 8 <= len(view):
        kind, length = struct.unpack_from("<4sI", view, at)
        yield kind, view[at + 8 : at + 8 + length]
        at += 8 + length + (length & 1)


def _size(kind: bytes, chunk: memoryview) -> tuple[int, int]:
    """Width and height of a lossy or a lossless picture."""
    if kind == b"VP8 ":
        if chunk[3:6] != _START or chunk[0] & 1:
            raise ValueError("no key frame")
        width, height = struct.unpack_from("<HH", chunk, 6)
        return width & 0x3FFF, height & 0x3FFF
    if chunk[0] != 0x2F:
        raise ValueError("no lossless picture")
    (bits,) = struct.unpack_from("<I", chunk, 1)
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


FORMAT = Format("WebP", lambda start: start[:4] == b"RIFF" and start[8:12] == b"WEBP", parse, (".webp",))
