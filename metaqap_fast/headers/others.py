"""The simpler formats: PNG, WebP, BMP, PNM and JPEG 2000. `parse` functions as in `jpeg`."""

from __future__ import annotations

import re
import struct
import zlib

from metaqap_fast.errors import ImageError, Status
from metaqap_fast.headers.header import Header
from metaqap_fast.headers.tiff import exif_orientation

_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG's colour type
_DEFLATE = 1032  # the most that one byte of deflated data can stand for


def png(view: memoryview) -> Header:
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
            orientation = exif_orientation(view[at + 8 : end - 4])
        if kind == b"IEND":
            raw = height * (1 + width * depth * _CHANNELS[colour] // 8)
            defect = "" if packed * _DEFLATE >= raw else f"{packed} bytes of image data cannot hold {raw}"
            break
        at = end
    return Header("png", width, height, orientation, defect)


def webp(view: memoryview) -> Header:
    """WebP: the length that RIFF states."""
    size, kind = struct.unpack_from("<I4x4s", view, 4)
    defect = f"truncated, {len(view)} of {size + 8} bytes" if size + 8 > len(view) else ""
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", view, 26)
        return Header("webp", width & 0x3FFF, height & 0x3FFF, 1, defect)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", view, 21)
        return Header("webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, 1, defect)
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
            orientation = exif_orientation(payload[6:] if bytes(payload[:6]) == b"Exif\0\0" else payload)
        at += 8 + length + (length & 1)
    return Header("webp", width, height, orientation, defect)


def bmp(view: memoryview) -> Header:
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
    return Header("bmp", width, abs(height), 1, defect)


_PNM = re.compile(
    rb"P([2356])(?:\s+(?:#[^\n]*\n\s*)*)(\d{1,9})\s+(?:#[^\n]*\n\s*)*(\d{1,9})\s+(?:#[^\n]*\n\s*)*(\d{1,5})\s"
)


def pnm(view: memoryview) -> Header:
    """PGM and PPM: whether all samples are there; a decimal one takes two bytes at least."""
    match = _PNM.match(view[:4096])
    if match is None:
        raise ValueError("no size")
    kind, width, height, largest = map(int, match.groups())
    if largest not in (255, 65535):  # decoders differ in whether they scale it
        raise ImageError(Status.unsupported, f"PNM with a largest sample {largest} is not supported")
    samples = width * height * (3 if kind in (3, 6) else 1)
    need = 2 * samples - 1 if kind in (2, 3) else samples * (1 if largest < 256 else 2)
    have = len(view) - match.end()
    return Header("pnm", width, height, 1, f"truncated, {have} of {need} bytes of samples" if have < need else "")


_END_OF_CODESTREAM = re.compile(rb"\xff\xd9")  # cannot occur in packed data


def jpeg2000(view: memoryview) -> Header:
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
    return Header("jpeg2000", right - left, bottom - top, 1, defect)
