"""Image headers, read before any pixel is decoded.

The program's own rule, in one place: what the file is, how large, how it is turned. A decoder is only given
what passes here, so a lying header costs a row and not an allocation, and the status of an image does not
depend on which decoder (CPU or GPU) would have seen it.

Supported: JPEG, PNG, WebP, TIFF, BMP, PNM (PGM, PPM), JPEG 2000. Recognised and refused by name: GIF, HEIC,
AVIF, JPEG XL, PSD, SVG, PDF and animated WebP.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

from metaqap_fast.errors import ImageError, Status


@dataclass(frozen=True, slots=True)
class Header:
    """What the file says of itself.

    `width` and `height` are in pixels as stored; `orientation` is the EXIF tag 274 (1 to 8). A viewer shows
    `display_size`, which is what is scored.
    """

    format: str
    width: int
    height: int
    orientation: int = 1
    defect: str = ""  # why the file is known to be incomplete, although its header can be read

    @property
    def display_size(self) -> tuple[int, int]:
        """(width, height) after the EXIF orientation is applied."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_header(data: bytes | memoryview) -> Header:
    """Parse the header of an encoded image.

    Args:
        data: the whole file; only headers are looked at, pixels are not decoded.

    Raises:
        ImageError: `corrupt` (empty, truncated or inconsistent header), `unsupported` (another format).
    """
    view = memoryview(data)
    if not view:
        raise ImageError(Status.corrupt, "the file is empty")
    start = bytes(view[:32])
    for matches, name, parse in _FORMATS:
        if matches(start):
            if parse is None:
                raise ImageError(Status.unsupported, f"{name} is not supported")
            try:
                header = parse(view)
            except (struct.error, IndexError, ValueError) as error:
                raise ImageError(Status.corrupt, f"{name}: damaged or truncated header ({error})") from None
            if header.width < 1 or header.height < 1:
                raise ImageError(Status.corrupt, f"{name}: header claims {header.width}x{header.height} pixels")
            return header
    raise ImageError(Status.unsupported, "not an image: no known signature at the start of the file")


# --- JPEG (ITU T.81): walk the marker segments to the frame header ---------------------------------------

_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start-of-frame markers; DHT, JPG and DAC are not


def _jpeg(view: memoryview) -> Header:
    orientation, at = 1, 2
    while True:
        if view[at] != 0xFF:
            raise ValueError(f"no marker at byte {at}")
        while view[at] == 0xFF:  # fill bytes
            at += 1
        marker = view[at]
        at += 1
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            continue
        if marker in (0xD9, 0xDA):
            raise ValueError("image data before a frame header")
        (length,) = struct.unpack_from(">H", view, at)
        if length < 2:
            raise ValueError("segment shorter than its own length field")
        if marker == 0xE1 and orientation == 1 and bytes(view[at + 2 : at + 8]) == b"Exif\0\0":
            orientation = _exif_orientation(view[at + 8 : at + length])
        if marker in _SOF:
            precision, height, width, components = struct.unpack_from(">BHHB", view, at + 2)
            if precision != 8:
                raise ImageError(Status.unsupported, f"JPEG with {precision}-bit samples is not supported")
            if marker not in (0xC0, 0xC1, 0xC2):
                raise ImageError(Status.unsupported, f"JPEG process SOF{marker - 0xC0} is not supported")
            if components not in (1, 3, 4):
                raise ImageError(Status.unsupported, f"JPEG with {components} components is not supported")
            whole = bytes(view[at + length :]).rfind(b"\xff\xd9") >= 0
            return Header("jpeg", width, height, orientation, "" if whole else "no end-of-image marker")
        at += length


def _exif_orientation(tiff: memoryview) -> int:
    """EXIF is metadata: what cannot be read in it means 'not turned', never a failed image."""
    try:
        endian, ifd = _tiff_start(tiff)
        return _orientation(_tiff_tags(tiff, endian, ifd).get(274, 1))
    except (struct.error, IndexError, ValueError):
        return 1


def _orientation(value: int) -> int:
    return value if 1 <= value <= 8 else 1


# --- TIFF 6.0: the tags of the first directory -----------------------------------------------------------


def _tiff_start(view: memoryview) -> tuple[str, int]:
    endian = {b"II": "<", b"MM": ">"}[bytes(view[:2])] if bytes(view[:2]) in (b"II", b"MM") else ""
    if not endian:
        raise ValueError("no byte-order mark")
    magic, ifd = struct.unpack_from(endian + "HI", view, 2)
    if magic != 42:
        raise ValueError("BigTIFF or not a TIFF")
    return endian, ifd


def _tiff_tags(view: memoryview, endian: str, ifd: int) -> dict[int, int]:
    """First value of each SHORT or LONG tag of one directory."""
    tags: dict[int, int] = {}
    (count,) = struct.unpack_from(endian + "H", view, ifd)
    for i in range(count):
        tag, kind, n = struct.unpack_from(endian + "HHI", view, ifd + 2 + 12 * i)
        at = ifd + 10 + 12 * i
        code = {1: "B", 3: "H", 4: "I"}.get(kind)
        if code is None or n < 1:
            continue
        if struct.calcsize(code) * n > 4:
            (at,) = struct.unpack_from(endian + "I", view, at)
        (tags[tag],) = struct.unpack_from(endian + code, view, at)
    return tags


def _tiff(view: memoryview) -> Header:
    endian, ifd = _tiff_start(view)
    tags = _tiff_tags(view, endian, ifd)
    if 256 not in tags or 257 not in tags:
        raise ValueError("no image size")
    return Header("tiff", tags[256], tags[257], _orientation(tags.get(274, 1)))


# --- the simpler ones ------------------------------------------------------------------------------------


def _png(view: memoryview) -> Header:
    length, kind, width, height = struct.unpack_from(">I4sII", view, 8)
    if kind != b"IHDR" or length != 13:
        raise ValueError("IHDR is not the first chunk")
    orientation, at, defect = 1, 8, "no IEND chunk"
    while at + 12 <= len(view):  # eXIf may stand before or after the pixels; skipping chunks is cheap
        length, kind = struct.unpack_from(">I4s", view, at)
        if kind == b"IEND":
            defect = ""
            break
        if kind == b"eXIf":
            orientation = _exif_orientation(view[at + 8 : at + 8 + length])
        at += 12 + length
    return Header("png", width, height, orientation, defect)


def _webp(view: memoryview) -> Header:
    size, kind = struct.unpack_from("<I4x4s", view, 4)
    defect = f"{len(view)} of {size + 8} bytes" if size + 8 > len(view) else ""
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
    orientation, at = 1, 12
    while at + 8 <= len(view):
        kind, length = struct.unpack_from("<4sI", view, at)
        if kind == b"EXIF":
            payload = view[at + 8 : at + 8 + length]
            orientation = _exif_orientation(payload[6:] if bytes(payload[:6]) == b"Exif\0\0" else payload)
        at += 8 + length + (length & 1)
    return Header("webp", width, height, orientation, defect)


def _bmp(view: memoryview) -> Header:
    (size,) = struct.unpack_from("<I", view, 14)
    if size == 12:
        width, height = struct.unpack_from("<HH", view, 18)
    else:
        width, height = struct.unpack_from("<ii", view, 18)
    return Header("bmp", width, abs(height))


_PNM = re.compile(rb"P[2356](?:\s+(?:#[^\n]*\n\s*)*)(\d{1,9})\s+(?:#[^\n]*\n\s*)*(\d{1,9})\s")


def _pnm(view: memoryview) -> Header:
    match = _PNM.match(bytes(view[:4096]))
    if match is None:
        raise ValueError("no size")
    return Header("pnm", int(match[1]), int(match[2]))


def _jpeg2000(view: memoryview) -> Header:
    at = bytes(view[:65536]).find(b"\xff\x4f\xff\x51")  # SOC, SIZ: the codestream, bare or inside a jp2 box
    if at < 0:
        raise ValueError("no codestream")
    right, bottom, left, top = struct.unpack_from(">IIII", view, at + 8)
    return Header("jpeg2000", right - left, bottom - top)


def _starts(*signatures: bytes) -> Callable[[bytes], bool]:
    return lambda start: start.startswith(signatures)


def _brand(*brands: bytes) -> Callable[[bytes], bool]:
    return lambda start: start[4:8] == b"ftyp" and start[8:12] in brands


_FORMATS: list[tuple[Callable[[bytes], bool], str, Callable[[memoryview], Header] | None]] = [
    (_starts(b"\xff\xd8\xff"), "JPEG", _jpeg),
    (_starts(b"\x89PNG\r\n\x1a\n"), "PNG", _png),
    (lambda s: s[:4] == b"RIFF" and s[8:12] == b"WEBP", "WebP", _webp),
    (_starts(b"II*\0", b"MM\0*"), "TIFF", _tiff),
    (lambda s: s[:2] == b"BM" and len(s) > 18, "BMP", _bmp),
    (lambda s: re.match(rb"P[2356]\s", s) is not None, "PNM", _pnm),
    (_starts(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"), "JPEG 2000", _jpeg2000),
    (_starts(b"GIF87a", b"GIF89a"), "GIF", None),
    (_brand(b"avif", b"avis"), "AVIF", None),
    (_brand(b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), "HEIC", None),
    (_starts(b"\xff\x0a", b"\0\0\0\x0cJXL "), "JPEG XL", None),
    (_starts(b"8BPS"), "PSD", None),
    (_starts(b"%PDF"), "PDF", None),
    (_starts(b"<svg"), "SVG", None),
    (_starts(b"II+\0", b"MM\0+"), "BigTIFF", None),
]
