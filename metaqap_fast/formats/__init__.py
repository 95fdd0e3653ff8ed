"""Image formats, and the rule that every file is held to before any pixel is decoded.

The program's own rule, in one place: what the file is, how large, how it is turned. A decoder is only given
what passes here, so a lying header costs a row and not an allocation, and the status of an image does not
depend on which decoder (CPU or GPU) would have seen it.

A format is a file in this folder and an entry of `FORMATS`.
"""

from __future__ import annotations

import struct

from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats import bmp, gif, heif, jpeg, jpeg2000, jxl, png, pnm, raw, refused, tiff, webp
from metaqap_fast.formats.format import START, Format, Header

__all__ = ["EXTENSIONS", "FORMATS", "Format", "Header", "read_header"]

# The first whose signature matches reads a file.
FORMATS: tuple[Format, ...] = (
    jpeg.FORMAT,
    png.FORMAT,
    webp.FORMAT,
    raw.FORMAT,
    tiff.FORMAT,
    bmp.FORMAT,
    pnm.FORMAT,
    jpeg2000.FORMAT,
    gif.FORMAT,
    heif.AVIF,
    heif.HEIC,
    jxl.FORMAT,
    *refused.FORMATS,
)

# What a file in a folder is recognised by; its content decides what it is.
EXTENSIONS = frozenset(extension.encode() for each in FORMATS for extension in each.extensions)


def read_header(data: bytes | memoryview) -> Header:
    """Parse the header of an encoded image.

    Args:
        data: the whole file; its structure is checked, pixels are not decoded.

    Returns:
        The header, with the names of its format and of the decoder that reads it.

    Raises:
        ImageError: `corrupt` (empty, truncated or inconsistent header), `unsupported` (another format).
    """
    view = memoryview(data)
    if not view:
        raise ImageError(Status.corrupt, "the file is empty")
    start = bytes(view[:START])
    found = next((each for each in FORMATS if each.matches(start) and (not each.holds or each.holds(view))), None)
    if found is None:
        raise ImageError(Status.unsupported, "not an image: no known signature at the start of the file")
    if found.parse is None:
        raise ImageError(Status.unsupported, f"{found.name} is not supported")
    try:
        header = found.parse(view)
    except (struct.error, LookupError, ValueError) as error:
        words = str(error) if type(error) is ValueError else "it refers to data beyond the end of the file"
        raise ImageError(Status.corrupt, f"{found.name}: damaged or truncated header ({words})") from None
    if header.width < 1 or header.height < 1:
        raise ImageError(Status.corrupt, f"{found.name}: header claims {header.width}x{header.height} pixels")
    header.format, header.decoder = header.format or found.name, header.decoder or found.decoder
    if header.frames != 1:
        several = f"the first of {header.frames or 'several'} pictures"
        header.note = "; ".join(filter(None, (several, header.note)))
    return header
