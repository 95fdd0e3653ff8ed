"""Formats that are known and refused by name, so that a row says more than "not an image"."""

from __future__ import annotations

import re

from metaqap_fast.formats.format import Format, starts

FORMATS = (
    Format("PAM", lambda start: re.match(rb"P7\s", start) is not None),
    Format("PSD", starts(b"8BPS")),
    Format("PDF", starts(b"%PDF")),
    Format("SVG", starts(b"<svg")),
)
