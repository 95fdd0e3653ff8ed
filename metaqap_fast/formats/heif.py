"""HEIC and AVIF: the primary picture of a HEIF file, and how it is turned."""

from __future__ import annotations

from collections.abc import Sequence

from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats.boxes import Reader, boxes
from metaqap_fast.formats.format import GAIN_MAP, HEIF, PILLOW, Format, Header, brand
from metaqap_fast.formats.icc import from_cicp
from metaqap_fast.formats.items import Items, read_items

# EXIF's orientation by quarter turns against the clock, then by what a mirror swaps: nothing, top and bottom, sides.
_ORIENTATIONS = ((1, 4, 2), (8, 5, 7), (3, 2, 4), (6, 7, 5))
_CODECS = {b"hvc1": HEIF, b"av01": PILLOW}


def parse(view: memoryview) -> Header:
    """HEIC and AVIF: the primary item, and whether the bytes of all that it is made of are there."""
    meta, moves = None, False
    for kind, content in boxes(view):
        if kind == b"meta" and meta is None:
            meta = content
        moves = moves or kind == b"moov"
    if meta is None:
        if moves:
            raise ImageError(Status.unsupported, "HEIF without a picture, only a sequence, is not supported")
        raise ValueError("no meta box")
    items = read_items(meta)
    coded = items.coded(items.primary)
    decoder = _decoder(items, coded)
    width, height, orientation = _shown(items, decoder)
    last = max(items.ends.get(item, 0) for item in (items.primary, *coded))
    defect = f"truncated, {len(view)} of {last} bytes" if last > len(view) else ""
    shown = len(items.shown())
    notes = [f"the primary one of {shown} pictures"] if shown > 1 else ["the still of a sequence"] if moves else []
    notes += [GAIN_MAP] if items.gain_map() else []
    return Header(width, height, orientation, defect, decoder, icc=_colours(items, coded), note="; ".join(notes))


def _decoder(items: Items, coded: list[int]) -> str:
    """Who decodes these items: all of them in one way."""
    kinds = {items.kinds.get(item, b"") for item in coded}
    if kinds <= {b""}:
        raise ValueError("no primary picture")
    if len(kinds) > 1 or not kinds <= set(_CODECS):
        names = ", ".join(sorted(kind.decode("latin-1") for kind in kinds))
        raise ImageError(Status.unsupported, f"HEIF coded as {ascii(names)[1:-1]} is not supported")
    return _CODECS[kinds.pop()]


def _shown(items: Items, decoder: str) -> tuple[int, int, int]:
    """Width and height as the decoder gives them, and the orientation that is left to apply.

    libheif (HEIC) cuts and turns by itself, libavif does neither. EXIF's orientation does not count in either format.
    """
    width = height = turns = mirror = 0
    for kind, content in items.of(items.primary):
        reader = Reader(content)
        if kind == b"ispe":
            reader.version()
            width, height = reader.take(4), reader.take(4)
        elif kind == b"clap":
            if decoder == PILLOW:
                raise ImageError(Status.unsupported, "AVIF with a clean aperture is not supported")
            clap = [reader.take(4) for _ in range(4)]
            width, height = clap[0] // max(1, clap[1]), clap[2] // max(1, clap[3])
        elif kind == b"irot":
            turns = reader.take(1) & 3
            if decoder == HEIF and turns & 1:
                width, height = height, width
        elif kind == b"imir":
            mirror = 1 + (reader.take(1) & 1)
    orientation = 1 if decoder == HEIF else _ORIENTATIONS[turns][mirror]
    return width, height, orientation


def _colours(items: Items, coded: Sequence[int]) -> bytes:
    """The picture's profile; many writers give it to the tiles alone."""
    for item in (items.primary, *coded):
        icc, cicp = b"", None
        for kind, content in items.of(item):
            reader = Reader(content)
            how = reader.take(4).to_bytes(4, "big") if kind == b"colr" else b""
            if how in (b"prof", b"rICC"):
                icc = bytes(reader.rest())
            elif how == b"nclx":
                cicp = reader.take(2), reader.take(2)
        if icc or cicp:  # a profile says more than numbers, which YCbCr needs beside it
            return icc or from_cicp(*cicp or (2, 2))
    return b""


AVIF = Format("AVIF", brand(b"avif", b"avis"), parse, (".avif", ".avifs"), PILLOW)
HEIC = Format(
    "HEIC",
    brand(b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"mif2", b"msf1"),
    parse,
    (".heic", ".heif", ".hif"),
    HEIF,
)
