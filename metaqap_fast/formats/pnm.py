"""PGM and PPM, binary and decimal."""

from __future__ import annotations

import re

from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats.format import Format, Header

_PNM = re.compile(
    rb"P([2356])(?:\s+(?:#[^\n]*\n\s*)*)(\d{1,9})\s+(?:#[^\n]*\n\s*)*(\d{1,9})\s+(?:#[^\n]*\n\s*)*(\d{1,5})\s"
)


def parse(view: memoryview) -> Header:
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
    return Header(width, height, 1, f"truncated, {have} of {need} bytes of samples" if have < need else "")


FORMAT = Format("PNM", lambda start: re.match(rb"P[2356]\s", start) is not None, parse, (".ppm", ".pgm", ".pnm"))
