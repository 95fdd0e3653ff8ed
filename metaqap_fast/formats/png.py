"""PNG: checksums of the chunks that make the picture, and those that say how it is shown."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats import exif
from metaqap_fast.formats.format import Format, Header, starts
from metaqap_fast.formats.icc import BROKEN, from_cicp, from_png

_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
# Read by us, so that no decoder reads them: EXIF, and the frames of an animation, of which IDAT is what is shown.
_OURS = (b"eXIf", b"acTL", b"fcTL", b"fdAT")
_SHOWN = (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM")  # colours, the strongest word first
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # of a colour type
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEFLATE = 1032  # the most that one byte of deflated data can stand for
_PROFILE = 16 << 20  # bytes of an ICC profile


@dataclass(slots=True)
class _Chunks:
    """What has been read so far."""

    packed: int = 0  # bytes of pixels
    palette: bool = False
    said: dict[bytes, memoryview] = field(default_factory=dict)  # the first sound chunk of a kind that we read
    ours: list[tuple[int, int]] = field(default_factory=list)  # where they are
    first: bool = False  # IDAT is the first frame of the animation
    defect: str = "truncated, no IEND chunk"


def parse(view: memoryview) -> Header:
    """PNG: the checksums of the chunks that make the picture, and whether they can hold it."""
    length, kind, width, height, depth, colour = struct.unpack_from(">I4sIIBB", view, 8)
    if kind == b"CgBI":
        raise ImageError(Status.unsupported, "PNG of Apple's own kind (CgBI) is not supported")
    if kind != b"IHDR" or length != 13:
        raise ValueError("IHDR is not the first chunk")
    if depth not in _DEPTHS.get(colour, ()):
        raise ValueError(f"colour type {colour} of {depth} bits")
    chunks = _read(view)
    if not chunks.defect:
        raw = height * (1 + width * depth * _CHANNELS[colour] // 8)
        if chunks.packed * _DEFLATE < raw:
            chunks.defect = f"{chunks.packed} bytes of image data cannot hold {raw}"
        elif colour == 3 and not chunks.palette:
            chunks.defect = "no palette"
    frames = 1
    if b"acTL" in chunks.said and chunks.first and len(chunks.said[b"acTL"]) == 8:
        frames = int.from_bytes(chunks.said[b"acTL"][:4], "big") or 1
    return Header(
        width,
        height,
        exif.orientation(chunks.said.get(b"eXIf", view[:0])),
        chunks.defect,
        parts=_parts(view, chunks.ours),
        icc=_colours(chunks.said),
        frames=frames,
        note="the picture beside an animation" if b"fdAT" in chunks.said and not chunks.first else "",
    )


def _read(view: memoryview) -> _Chunks:
    found, at = _Chunks(), 8
    while at + 12 <= len(view):
        length, kind = struct.unpack_from(">I4s", view, at)
        end = at + 12 + length
        if end > len(view):
            break
        critical = kind in _CRITICAL
        if critical or kind in _OURS or kind in _SHOWN:
            sound = zlib.crc32(view[at + 4 : end - 4]) == int.from_bytes(view[end - 4 : end], "big")
            if critical and not sound:
                found.defect = f"wrong checksum of {kind.decode()} at byte {at}"
                break
            if kind in _OURS:
                found.ours.append((at, end))
            if sound and not critical:
                found.said.setdefault(kind, view[at + 8 : end - 4])
        if kind == b"IDAT":
            found.first = found.first or (not found.packed and b"fcTL" in found.said)
            found.packed += length
        elif kind == b"PLTE":
            found.palette = True
        elif kind == b"IEND":
            found.defect = ""
            break
        at = end
    return found


def _parts(view: memoryview, left_out: list[tuple[int, int]]) -> tuple[memoryview, ...]:
    """The file without these."""
    if not left_out:
        return ()
    starts, ends = [0, *(end for _, end in left_out)], [*(at for at, _ in left_out), len(view)]
    return tuple(view[at:end] for at, end in zip(starts, ends, strict=True))


def _colours(said: dict[bytes, memoryview]) -> bytes:
    """The profile of the strongest word that the file has about its colours."""
    if len(said.get(b"cICP", b"")) == 4:
        return from_cicp(*said[b"cICP"][:2])
    if b"iCCP" in said:
        return _profile(said[b"iCCP"])
    if b"sRGB" in said or len(said.get(b"gAMA", b"")) != 4:
        return b""
    points = said.get(b"cHRM", b"")
    gamma = int.from_bytes(said[b"gAMA"], "big")
    return from_png(gamma, struct.unpack(">8I", points) if len(points) == 32 else ())


def _profile(chunk: memoryview) -> bytes:
    """The ICC profile of an iCCP chunk: a name, a zero, the method 0, deflated bytes. `BROKEN`: it cannot be read."""
    _, zero, rest = bytes(chunk).partition(b"\0")
    if not zero or rest[:1] != b"\0":
        return BROKEN
    inflate = zlib.decompressobj()
    try:
        profile = inflate.decompress(rest[1:], _PROFILE)
    except zlib.error:
        return BROKEN
    return profile if inflate.eof else BROKEN


FORMAT = Format("PNG", starts(b"\x89PNG\r\n\x1a\n"), parse, (".png", ".apng"))
