"""JPEG (ITU T.81): the frame header, and whether the marker structure is whole.

What the rule sees: an end-of-image marker that is missing, markers that cannot stand where they stand, restart
markers out of order, components without a scan, less data than the smallest code for that many blocks, and
zeroed disk sectors. What it does not see is damage inside the entropy-coded data that leaves all this intact:
such a file is scored as decoders show it, broken picture included. Finding it takes a full decode, and then
the status would be that decoder's and not ours.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats import exif
from metaqap_fast.formats.format import Format, Header, starts

_SOI, _EOI, _SOS, _DHT, _DRI, _APP1 = 0xD8, 0xD9, 0xDA, 0xC4, 0xDD, 0xE1
_RESTARTS = range(0xD0, 0xD8)
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start-of-frame markers; DHT, JPG and DAC are not
# Tables, comments, application data and DNL: what may stand between two scans.
_BETWEEN = frozenset({_DHT, 0xDB, 0xDC, _DRI, _SOS, 0xFE, *range(0xE0, 0xF0)})
# A marker, or a run of fill bytes with what follows; the second not for restart markers. They begin with a fixed byte,
# which `re` looks for at the speed of memory, and eat every run, so that a file full of them takes no quadratic time.
_MARKER = re.compile(rb"\xff(?:[\x01-\xfe]|\xff++(.?))", re.DOTALL)
_END_OF_SCAN = re.compile(rb"\xff(?:[\x01-\xcf\xd8-\xfe]|\xff++(.?))", re.DOTALL)
_DATA = frozenset([b"", b"\0"])  # what is no marker after fill bytes
_IN_SCAN = _DATA | {bytes([marker]) for marker in _RESTARTS}
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_ZEROS = bytes(64)


@dataclass(slots=True)
class _Frame:
    """What the segments before a scan have said."""

    width: int = 0
    height: int = 0
    progressive: bool = False
    components: dict[int, tuple[int, int]] = field(default_factory=dict)  # id -> sampling factors
    restart: int = 0
    first_ac: dict[int, int] = field(default_factory=dict)  # AC table -> the symbol whose code is all zeros
    orientation: int = 1

    @property
    def blocks(self) -> int:
        """8x8 blocks of all components, at least."""
        wide, high = (max(factor[i] for factor in self.components.values()) for i in (0, 1))
        return sum(
            -(-self.width * h // (8 * wide)) * -(-self.height * v // (8 * high)) for h, v in self.components.values()
        )


def parse(view: memoryview) -> Header:
    """See `read_header`.

    Raises:
        ImageError: a JPEG process that is not supported.
        ValueError, struct.error, IndexError: a damaged header.
    """
    frame, at = _Frame(), 2
    while not frame.components:
        marker, at, end = _segment(view, at)
        if marker in (_SOI, _EOI, _SOS):
            raise ValueError("image data before a frame header")
        _take(frame, marker, view[at:end])
        at = end
    return Header(frame.width, frame.height, frame.orientation, _defect(frame, view, at))


def _segment(view: memoryview, at: int) -> tuple[int, int, int]:
    """(marker, start, end) of the segment at `at`; the payload follows its two bytes of length."""
    if view[at] != 0xFF:
        raise ValueError(f"no marker at byte {at}")
    while view[at] == 0xFF:  # fill bytes
        at += 1
    marker = view[at]
    if marker in (_SOI, _EOI, 0x01) or marker in _RESTARTS:  # these stand alone
        return marker, at + 1, at + 1
    (length,) = struct.unpack_from(">H", view, at + 1)
    if length < 2:
        raise ValueError("segment shorter than its own length field")
    return marker, at + 3, at + 1 + length


def _take(frame: _Frame, marker: int, payload: memoryview) -> None:
    if marker in _SOF:
        precision, frame.height, frame.width, count = struct.unpack_from(">BHHB", payload)
        if precision != 8:
            raise ImageError(Status.unsupported, f"JPEG with {precision}-bit samples is not supported")
        if marker not in (0xC0, 0xC1, 0xC2):
            raise ImageError(Status.unsupported, f"JPEG process SOF{marker - 0xC0} is not supported")
        if count not in (1, 3, 4):
            raise ImageError(Status.unsupported, f"JPEG with {count} components is not supported")
        frame.progressive = marker == 0xC2
        for i in range(6, 6 + 3 * count, 3):
            factors = payload[i + 1] >> 4, payload[i + 1] & 15
            if not all(1 <= factor <= 4 for factor in factors):
                raise ValueError(f"sampling factors {factors}")
            frame.components[payload[i]] = factors
    elif marker == _DRI:
        (frame.restart,) = struct.unpack_from(">H", payload)
    elif marker == _DHT:
        while payload:
            count = sum(payload[1:17])
            if payload[0] >> 4 and count:
                frame.first_ac[payload[0] & 15] = payload[17]
            payload = payload[17 + count :]
    elif marker == _APP1 and frame.orientation == 1 and bytes(payload[:6]) == b"Exif\0\0":
        frame.orientation = exif.orientation(payload[6:])


def _defect(frame: _Frame, view: memoryview, at: int) -> str:
    """What is wrong behind the frame header, up to the end-of-image marker; what follows it is not the image."""
    coded, seen = 0, set()
    try:
        while True:
            marker, start, at = _segment(view, at)
            if marker == _EOI:
                break
            if marker in _RESTARTS and not frame.restart:
                return "restart markers where there are none"
            if marker not in _BETWEEN:
                return f"unexpected marker FF{marker:02X} at byte {start}"
            if marker != _SOS:
                _take(frame, marker, view[start:at])
                continue
            ids = [view[start + 1 + 2 * i] for i in range(view[start])]
            seen.update(ids)
            end = _end_of_scan(view, at, frame.restart > 0)
            if end is None:
                return "truncated, no end-of-image marker"
            tables = [view[start + 2 + 2 * i] & 15 for i in range(view[start])]
            if defect := _scan_defect(frame, view[at:end], tables):
                return defect
            coded, at = coded + end - at, end
    except (IndexError, struct.error):
        return "truncated, no end-of-image marker"
    except ValueError as error:
        return str(error)
    if missing := frame.components.keys() - seen:
        return f"no image data for {len(missing)} of {len(frame.components)} components"
    # A block takes a bit at least, in a sequential file two: the shortest codes of its DC and of its end.
    least = frame.blocks * (1 if frame.progressive else 2) // 8
    return f"{coded} bytes of image data cannot hold {frame.blocks} blocks" if coded < least else ""


def _end_of_scan(view: memoryview, at: int, restarts: bool) -> int | None:
    """Where the first marker, or fill before it, stands; None without one. `restarts`: those do not count."""
    pattern, inside = (_END_OF_SCAN, _IN_SCAN) if restarts else (_MARKER, _DATA)
    return next((match.start() for match in pattern.finditer(view, at) if match[1] not in inside), None)


def _scan_defect(frame: _Frame, scan: memoryview, tables: list[int]) -> str:
    restarts = _RESTART.findall(scan) if frame.restart else []
    if any(marker[0] != 0xD0 + i % 8 for i, marker in enumerate(restarts)):
        return "restart markers out of order"
    # In a sequential scan zeros are blocks of the AC table's first symbol. Unless that is the end of the block,
    # all of their 63 coefficients are -1: no picture, but a sector that was never written.
    if not frame.progressive and any(frame.first_ac.get(table, 0) for table in tables):
        return "a run of zeros in the image data" if _ZEROS in bytes(scan) else ""
    return ""


FORMAT = Format("JPEG", starts(b"\xff\xd8\xff"), parse, (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"))
