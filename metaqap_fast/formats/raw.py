"""RAW files of cameras: the picture that the camera made of the sensor's data, or what is needed to develop that.

A RAW file holds JPEGs besides the sensor's data, from a thumbnail to the full size. Where they stand differs from maker
to maker, so they are looked for by what they are: the largest one is the camera's picture. It is scored if its shorter
side has `ENOUGH` pixels, or half of the sensor's; otherwise the sensor's data is developed, which takes seconds.
"""

from __future__ import annotations

import re
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from metaqap_fast.errors import ImageError
from metaqap_fast.formats import jpeg
from metaqap_fast.formats.boxes import boxes
from metaqap_fast.formats.format import DALI, RAW, Format, Header, brand, starts

ENOUGH = 1000  # pixels of the shorter side, twice what the members see
_STARTS = 10_000  # of JPEGs that are looked at, in one file
_SEGMENTS = 64  # before a JPEG's frame header
_DIRECTORIES, _ENTRIES, _VALUES = 64, 1024, 1 << 14  # of one file, of one directory, of one tag
_START, _END = re.compile(rb"\xff\xd8\xff"), re.compile(rb"\xff\xd9")  # the second cannot occur in coded data
_TIFF = (b"II*\0", b"MM\0*")
_OTHERS = (b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FUJIFILMCCD-RAW")  # Olympus, Panasonic, Fujifilm
_CANON = bytes.fromhex("85c0b687820f11e08111f4ce462b6a48")  # the box of a CR3 that holds its directories
_SENSOR = (32803, 34892)  # colour models: a filter over each pixel, or straight from the sensor
_WIDTH, _HEIGHT, _COLOURS, _ORIENTATION, _DNG = 256, 257, 262, 274, 50706
_PIECES = ((273, 279), (324, 325))  # (offsets, byte counts) of strips and of tiles
_DEEPER = (330, 34665)  # tags that point at other directories
# (width, height) in directories: TIFF's, the picture's by EXIF, Panasonic's.
_SIZES = ((_WIDTH, _HEIGHT), (40962, 40963), (2, 3))
_WANTED = frozenset({_COLOURS, _ORIENTATION, _DNG, *_DEEPER, *(tag for pair in (*_SIZES, *_PIECES) for tag in pair)})
_KINDS = {1: "B", 3: "H", 4: "I", 13: "I"}
Tags = dict[int, tuple[int, ...]]


def holds(view: memoryview) -> bool:
    """Whether this is one: by its start, or a TIFF file with a sensor's data."""
    if bytes(view[:4]) not in _TIFF or bytes(view[8:10]) == b"CR":
        return True
    return any(tags.get(_COLOURS, (0,))[0] in _SENSOR or _DNG in tags for tags in _directories(view))


def parse(view: memoryview) -> Header:
    """RAW: the camera's picture if it is large enough, else the sensor's data."""
    tags = list(_tags(view))
    sensor = max((_size(each) for each in tags), key=lambda size: size[0] * size[1], default=(0, 0))
    turned = next((each[_ORIENTATION][0] for each in tags if _ORIENTATION in each), 0)
    picture = _picture(view)
    side = min(picture.width, picture.height) if picture else 0
    if picture and (side >= ENOUGH or 2 * side >= min(sensor) > 0):
        note = f"the camera's preview; the sensor has {sensor[0]}x{sensor[1]} pixels" if sensor[0] else "a preview"
        orientation = turned if 1 <= turned <= 8 else picture.orientation
        return replace(picture, orientation=orientation, note=note, sensor=sensor)
    if not sensor[0]:
        raise ValueError("neither a preview nor the size of a sensor")
    why = f"its largest preview has {picture.width}x{picture.height} pixels" if picture else "it has no preview"
    header = developed(Header(0, 0, turned if 1 <= turned <= 8 else 1, sensor=sensor), _cut(view, tags))
    return replace(header, note=f"{header.note}, for {why}")


def developed(header: Header, defect: str = "") -> Header:
    """What is developed from the sensor where `header` is that of a RAW file's preview."""
    width, height = header.sensor
    note = "developed from the sensor"
    return Header(width, height, header.orientation, defect, RAW, sensor=header.sensor, note=note)


def _cut(view: memoryview, tags: Sequence[Tags]) -> str:
    """Whether a part of the sensor's data is behind the end of the file."""
    pieces = [
        at + size
        for each in tags
        for places, sizes in _PIECES
        for at, size in zip(each.get(places, ()), each.get(sizes, ()), strict=False)
        if each.get(_COLOURS, (0,))[0] in _SENSOR
    ]
    return f"truncated, {len(view)} of {max(pieces)} bytes" if pieces and max(pieces) > len(view) else ""


def _picture(view: memoryview) -> Header | None:
    """The largest JPEG that a viewer can show."""
    best, where = (0, 0), 0
    for number, match in enumerate(_START.finditer(view)):
        if number == _STARTS:
            break
        with suppress(ValueError, IndexError, struct.error):
            size = _frame_size(view, match.start())
            if size[0] * size[1] > best[0] * best[1]:
                best, where = size, match.start()
    if best == (0, 0):
        return None
    with suppress(ImageError, ValueError, IndexError, struct.error):
        whole = view[where : _end(view, where)]
        header = jpeg.parse(whole)
        return replace(header, decoder=header.decoder or DALI, format="JPEG", parts=header.parts or (whole,))
    return None


def _frame_size(view: memoryview, at: int) -> tuple[int, int]:
    """(width, height) of the JPEG at `at`, if it is one of 8 bits that is no sensor's data; else ValueError."""
    at += 2
    for _ in range(_SEGMENTS):
        start, marker, length = struct.unpack_from(">BBH", view, at)
        if start != 0xFF or length < 2 or not 0xC0 <= marker <= 0xFE:
            break
        if marker in (0xC0, 0xC1, 0xC2):
            bits, height, width, count = struct.unpack_from(">BHHB", view, at + 4)
            if bits == 8 and count in (1, 3):
                return width, height
            break
        if marker in (0xC3, 0xDA, 0xD9):
            break
        at += 2 + length
    raise ValueError("no frame header")


def _end(view: memoryview, at: int) -> int:
    """Where the JPEG at `at` ends: at the first end marker behind the start of its scan."""
    at += 2
    while view[at + 1] != 0xDA:
        at += 2 + int.from_bytes(view[at + 2 : at + 4], "big")
    match = _END.search(view, at)
    return match.end() if match else len(view)


def _tags(view: memoryview) -> Iterator[Tags]:
    """All directories, wherever the maker puts them."""
    start = bytes(view[:4])
    if start in _TIFF or start in _OTHERS:
        yield from _directories(view)
    elif start == b"FUJI":
        yield from _fuji(view)
    else:
        for kind, content in boxes(view):
            for inner, held in boxes(content) if kind == b"moov" else ():
                if inner == _CANON:
                    for name, directory in boxes(held):
                        if name.startswith(b"CMT"):
                            yield from _directories(directory)


def _directories(view: memoryview) -> Iterator[Tags]:
    """A TIFF file's directories with their numbers, at most so many; what cannot be read ends them."""
    endian = ">" if bytes(view[:2]) == b"MM" else "<"
    with suppress(struct.error):
        waiting, seen = deque(struct.unpack_from(endian + "I", view, 4)), {0}
        while waiting and len(seen) <= _DIRECTORIES:
            at = waiting.popleft()
            if at in seen:
                continue
            seen.add(at)
            with suppress(struct.error):
                tags, after = _directory(view, endian, at)
                yield tags
                waiting.extend(other for tag in _DEEPER for other in tags.get(tag, ()))
                waiting.append(after)


def _directory(view: memoryview, endian: str, at: int) -> tuple[Tags, int]:
    """A directory's numbers, and where the next directory stands."""
    (count,) = struct.unpack_from(endian + "H", view, at)
    tags: Tags = {}
    for entry in range(at + 2, at + 2 + 12 * min(count, _ENTRIES), 12):
        tag, kind, n = struct.unpack_from(endian + "HHI", view, entry)
        if tag not in _WANTED or tag in tags or kind not in _KINDS or n < 1:
            continue
        place = entry + 8
        code = f"{endian}{min(n, _VALUES)}{_KINDS[kind]}"
        if struct.calcsize("=" + _KINDS[kind]) * n > 4:
            (place,) = struct.unpack_from(endian + "I", view, place)
        with suppress(struct.error):
            tags[tag] = struct.unpack_from(code, view, place)
    with suppress(struct.error):
        return tags, struct.unpack_from(endian + "I", view, at + 2 + 12 * count)[0]
    return tags, 0


def _fuji(view: memoryview) -> Iterator[Tags]:
    """The sensor's size, from the table that the header of a RAF points at."""
    with suppress(struct.error):
        (at,) = struct.unpack_from(">I", view, 92)
        (count,) = struct.unpack_from(">I", view, at)
        at += 4
        for _ in range(min(count, _ENTRIES)):
            tag, size = struct.unpack_from(">HH", view, at)
            if tag == 0x100:
                height, width = struct.unpack_from(">HH", view, at + 4)
                yield {_WIDTH: (width,), _HEIGHT: (height,)}
            at += 4 + size


def _size(tags: Tags) -> tuple[int, int]:
    """The largest size that a directory tells of."""
    sizes = [(tags[wide][0], tags[high][0]) for wide, high in _SIZES if wide in tags and high in tags]
    return max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))


def _matches(start: bytes) -> bool:
    return starts(*_TIFF, *_OTHERS)(start) or brand(b"crx ")(start)


FORMAT = Format(
    "RAW",
    _matches,
    parse,
    (".cr2", ".cr3", ".nef", ".nrw", ".arw", ".sr2", ".dng", ".raf", ".orf", ".rw2", ".pef", ".srw"),
    RAW,
    holds,
)
