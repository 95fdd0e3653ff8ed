"""PBM, PGM and PPM, binary and decimal."""

from __future__ import annotations

import re
from dataclasses import dataclass

from metaqap_fast.formats.format import PNM, Format, Header

_SPACE = rb"(?:\s+(?:#[^\n]*\n\s*)*)"  # with comments in it
_BITS = re.compile(rb"P([14])" + _SPACE + rb"(\d{1,9})" + _SPACE + rb"(\d{1,9})\s")
_NUMBERS = re.compile(rb"P([2356])" + _SPACE + rb"(\d{1,9})" + _SPACE + rb"(\d{1,9})" + _SPACE + rb"(\d{1,5})\s")


@dataclass(frozen=True, slots=True)
class Layout:
    """How bytes are samples.

    Attributes:
        decimal: numbers in text, not bytes.
        channels: 1 (gray) or 3.
        largest: sample, which is white; 1 is black in a file of bits, see `bits`.
        bits: a sample is a bit, 1 is black.
        start: where the samples begin.
    """

    width: int
    height: int
    decimal: bool
    channels: int
    largest: int
    bits: bool
    start: int

    @property
    def samples(self) -> int:
        """How many the image has."""
        return self.width * self.height * self.channels


def parse(view: memoryview) -> Header:
    """PNM: whether all samples are there; a decimal one takes two bytes at least, a bit in text takes one."""
    found = layout(view)
    if found.decimal:
        need = found.samples if found.bits else 2 * found.samples - 1
    elif found.bits:
        need = found.height * ((found.width + 7) // 8)
    else:
        need = found.samples * (1 if found.largest < 256 else 2)
    have = len(view) - found.start
    return Header(
        found.width, found.height, 1, f"truncated, {have} of {need} bytes of samples" if have < need else ""
    )  # fmt: skip


def layout(view: memoryview) -> Layout:
    """What decides pixels.

    Raises:
        ValueError: damaged.
    """
    match = (_BITS if view[1] in b"14" else _NUMBERS).match(view[:4096])
    if match is None:
        raise ValueError("no size")
    kind, width, height, *rest = map(int, match.groups())
    largest = rest[0] if rest else 1
    if not 1 <= largest <= 65535:
        raise ValueError(f"a largest sample of {largest}")
    return Layout(width, height, kind <= 3, 3 if kind in (3, 6) else 1, largest, kind in (1, 4), match.end())


FORMAT = Format(
    "PNM", lambda start: re.match(rb"P[1-6]\s", start) is not None, parse, (".ppm", ".pgm", ".pnm", ".pbm"), PNM
)
