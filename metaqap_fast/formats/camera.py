"""What a camera wrote beside a picture: EXIF's date, camera, lens and exposure. Its places are not read."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from math import nan

from metaqap_fast.records import Details

_JPEG, _PNG, _PREFIX = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"Exif\0\0"
_TIFFS = (b"II*\0", b"MM\0*")
_ELSEWHERE = re.compile(rb"Exif\0\0(?=II\*\0|MM\0\*)")  # in HEIC, AVIF, JPEG XL and some RAW files
_FAR = 1 << 20  # bytes in which it is looked for there
_LETTERS = 80  # of a text
_MAKE, _MODEL, _CHANGED, _MORE = 271, 272, 306, 34665
_TAKEN, _FRACTION, _LENS = 36867, 37521, 42036
_SECONDS, _APERTURE, _ISO, _LENGTH = 33434, 33437, 34855, 37386
_SIZES = {2: 1, 3: 2, 4: 4, 5: 8, 13: 4}  # of a value: text, 16 bits, 32 bits, a ratio, a place


def details(data: bytes | memoryview) -> Details:
    """What the file says; empty texts and NaN for what it does not say or what makes no sense. Never raises."""
    with suppress(struct.error, ValueError, IndexError, ArithmeticError):
        return _read(_block(memoryview(data)))
    return Details()


def _block(view: memoryview) -> memoryview:
    """The EXIF data of a file, from its byte-order mark."""
    start = bytes(view[:12])
    if start[:4] in _TIFFS:
        return view
    if start.startswith(_JPEG):
        return _in_segments(view)
    if start.startswith(_PNG):
        return _in_chunks(view, 8, ">I4s", b"eXIf", 4)
    if start[:4] == b"RIFF" and start[8:] == b"WEBP":
        return _in_chunks(view, 12, "<4sI", b"EXIF", 0)
    found = _ELSEWHERE.search(view[:_FAR])
    return view[found.end() :] if found else view[:0]


def _in_segments(view: memoryview) -> memoryview:
    at = 2
    while view[at] == 0xFF and view[at + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", view, at + 2)
        if view[at + 1] == 0xE1 and view[at + 4 : at + 10] == _PREFIX:
            return view[at + 10 : at + 2 + length]
        at += 2 + max(2, length)
    return view[:0]


def _in_chunks(view: memoryview, at: int, head: str, name: bytes, checksum: int) -> memoryview:
    while at + 8 <= len(view):
        fields = struct.unpack_from(head, view, at)
        kind, length = sorted(fields, key=lambda value: isinstance(value, int))
        if kind == name:
            found = view[at + 8 : at + 8 + length]
            return found[len(_PREFIX) :] if found[: len(_PREFIX)] == _PREFIX else found
        at += 8 + length + (checksum or length & 1)
    return view[:0]


def _read(view: memoryview) -> Details:
    if not view:
        return Details()
    endian = {b"II": "<", b"MM": ">"}[bytes(view[:2])] if bytes(view[:2]) in (b"II", b"MM") else ""
    if not endian:
        return Details()
    tags = _tags(view, endian, struct.unpack_from(endian + "I", view, 4)[0])
    if more := tags.get(_MORE):
        with suppress(struct.error):
            tags = {**_tags(view, endian, struct.unpack(endian + "I", more)[0]), **tags}
    make, model, lens = (_text(tags.get(tag, b"")) for tag in (_MAKE, _MODEL, _LENS))
    named = model.lower().startswith(make.split(" ")[0].lower()) if make else True
    numbers = (_number(tags.get(tag, b""), endian) for tag in (_SECONDS, _APERTURE, _ISO, _LENGTH))
    return Details(_date(tags), model if named else f"{make} {model}".strip(), lens, *numbers)


def _tags(view: memoryview, endian: str, at: int) -> dict[int, bytes]:
    """The bytes of a directory's values."""
    found: dict[int, bytes] = {}
    (count,) = struct.unpack_from(endian + "H", view, at)
    for entry in range(at + 2, min(at + 2 + 12 * count, len(view) - 11), 12):
        tag, kind, n = struct.unpack_from(endian + "HHI", view, entry)
        size = n * _SIZES.get(kind, 0)
        place = entry + 8 if size <= 4 else struct.unpack_from(endian + "I", view, entry + 8)[0]
        if 0 < size <= 1 << 16:
            found.setdefault(tag, bytes(view[place : place + size]))
    return found


def _text(value: bytes) -> str:
    text = value.partition(b"\0")[0].decode(errors="replace")
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:_LETTERS]


def _number(value: bytes, endian: str) -> float:
    """A positive number or ratio."""
    if len(value) == 8:
        above, below = struct.unpack(endian + "II", value)
        found = above / below if below else nan
    elif len(value) in (2, 4):
        found = float(struct.unpack(endian + ("H" if len(value) == 2 else "I"), value)[0])
    else:
        return nan
    return found if 0 < found < 1e9 else nan


def _date(tags: Mapping[int, bytes]) -> str:
    """When it was taken, as the camera's clock had it: 2024-05-01T12:30:05, and .25 behind it where that is known."""
    text = _text(tags.get(_TAKEN, b"")) or _text(tags.get(_CHANGED, b""))
    try:
        date = datetime.strptime(text[:19], "%Y:%m:%d %H:%M:%S").isoformat()
    except ValueError:
        return ""
    part = _text(tags.get(_FRACTION, b""))[:3] if _TAKEN in tags else ""
    return f"{date}.{part}" if part.isdecimal() and part.isascii() else date
