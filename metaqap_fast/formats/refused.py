"""Formats that are known and refused by name, so that a row says more than "not an image"."""

from __future__ import annotations

import re

from metaqap_fast.formats.format import Format, brand, starts

_HEIC = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")

FORMATS = (
    Format("PBM (bilevel)", lambda start: re.match(rb"P[14]\s", start) is not None),
    Format("PAM", lambda start: re.match(rb"P7\s", start) is not None),
    Format("GIF", starts(b"GIF87a", b"GIF89a"), extensions=(".gif",)),
    Format("AVIF", brand(b"avif", b"avis"), extensions=(".avif",)),
    Format("HEIC", brand(*_HEIC), extensions=(".heic", ".heif")),
    Format("JPEG XL", starts(b"\xff\x0a", b"\0\0\0\x0cJXL "), extensions=(".jxl",)),
    Format("PSD", starts(b"8BPS")),
    Format("PDF", starts(b"%PDF")),
    Format("SVG", starts(b"<svg")),
    Format("BigTIFF", starts(b"II+\0", b"MM\0+")),
)
