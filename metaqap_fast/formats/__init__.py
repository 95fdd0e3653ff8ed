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

from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats import bmp, jpeg, jpeg2000, png, pnm, tiff, webp
from metaqap_fast.formats.header import Header

__all__ = ["Header", "read_header"]


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


def _starts(*signatures: bytes) -> Callable[[bytes], bool]:
    return lambda start: start.startswith(signatures)


def _brand(*brands: bytes) -> Callable[[bytes], bool]:
    return lambda start: start[4:8] == b"ftyp" and start[8:12] in brands


_FORMATS: list[tuple[Callable[[bytes], bool], str, Callable[[memoryview], Header] | None]] = [
    (_starts(b"\xff\xd8\xff"), "JPEG", jpeg.parse),
    (_starts(b"\x89PNG\r\n\x1a\n"), "PNG", png.parse),
    (lambda s: s[:4] == b"RIFF" and s[8:12] == b"WEBP", "WebP", webp.parse),
    (_starts(b"II*\0", b"MM\0*"), "TIFF", tiff.parse),
    (lambda s: s[:2] == b"BM" and len(s) > 18, "BMP", bmp.parse),
    (lambda s: re.match(rb"P[2356]\s", s) is not None, "PNM", pnm.parse),
    (_starts(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"), "JPEG 2000", jpeg2000.parse),
    (lambda s: re.match(rb"P[14]\s", s) is not None, "PBM (bilevel)", None),
    (lambda s: re.match(rb"P7\s", s) is not None, "PAM", None),
    (_starts(b"GIF87a", b"GIF89a"), "GIF", None),
    (_brand(b"avif", b"avis"), "AVIF", None),
    (_brand(b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), "HEIC", None),
    (_starts(b"\xff\x0a", b"\0\0\0\x0cJXL "), "JPEG XL", None),
    (_starts(b"8BPS"), "PSD", None),
    (_starts(b"%PDF"), "PDF", None),
    (_starts(b"<svg"), "SVG", None),
    (_starts(b"II+\0", b"MM\0+"), "BigTIFF", None),
]
