"""JPEG (ITU T.81): the frame header, and whether the marker structure is whole.

What the rule sees: an end-of-image marker that is missing, markers that cannot stand where they stand, restart
markers out of order, components without a scan, less data than the smallest code for that many blocks, and
zeroed disk sectors. What it does not see is damage inside the entropy-coded data that leaves all this intact:
such a file is scored as decoders show it, broken picture included. Finding it takes a full decode, and then
the status would be that decoder's and not ours.

What every viewer passes over is passed over here too, and left out of what the decoder gets: stray bytes between the
segments. Zeros at the end of the image data are padding if the image is complete without them; that takes a decoder
which finds it out (`WHOLE`).
"""

from __future__ import annotations

import re
import struct
from contextlib import suppress
from dataclasses import dataclass, field

from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats import exif
from metaqap_fast.formats.directory import Directory
from metaqap_fast.formats.format import CODECS, GAIN_MAP, PILLOW, WHOLE, Format, Header, starts
from metaqap_fast.formats.scan import RESTARTS, ZEROS, Scan, scanned

_SOI, _EOI, _SOS, _DHT, _DAC, _DRI, _TEM = 0xD8, 0xD9, 0xDA, 0xC4, 0xCC, 0xDD, 0x01
_APP1, _APP2, _APP14 = 0xE1, 0xE2, 0xEE
_HUFFMAN, _PROGRESSIVE = (0xC0, 0xC1, 0xC2), (0xC2, 0xCA)
_OTHERS = (0xC3, 0xC9, 0xCA)  # lossless, arithmetic sequential and progressive: what DALI does not read
_LOSSLESS, _DEEP = 0xC3, ((12, 0xC1), (12, 0xC2))  # in more than 8 bits
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start-of-frame markers; DHT, JPG and DAC are not
# Tables, comments, application data and DNL: what may stand between two scans.
_BETWEEN = frozenset({_DHT, _DAC, 0xDB, 0xDC, _DRI, _SOS, 0xFE, *range(0xE0, 0xF0)})
_ALONE = frozenset({_SOI, _EOI, _TEM, *RESTARTS})  # markers of no segment
_NEXT = re.compile(rb"\xff++[\x01-\xfe]")
_RUN = "a run of zeros in the image data"
_SECTOR = bytes(512)
_ADOBE = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0"  # of four components that are inks, stored as light
_END = b"\xff\xd9"
_XMP_MAP, _ISO_MAP = (
    re.compile(rb"hdrgm:Version|HDRGainMap"),
    b"urn:iso:std:iso:ts:21496:-1",
)  # say that there is a gain map
_PICTURES = 0xB001  # the tag that holds their number in a file of several


@dataclass(slots=True)
class _Frame:
    """What the segments before a scan have said."""

    width: int = 0
    height: int = 0
    progressive: bool = False
    components: dict[int, tuple[int, int]] = field(default_factory=dict)  # id -> sampling factors
    restart: int = 0
    first_ac: dict[int, int] = field(default_factory=dict)  # AC table -> the symbol whose code is all zeros
    other: bool = False  # a process that another decoder reads
    depth: int = 8
    gain_map: bool = False
    orientation: int = 0  # 0: no EXIF so far
    icc: dict[int, memoryview] = field(default_factory=dict)  # number -> this part of the profile
    adobe: bool = False
    pictures: int = 1
    scanned: bool = False  # the first scan has begun: viewers look for nothing but scans behind it
    stray: list[tuple[int, int]] = field(default_factory=list)  # bytes of no segment, from and to
    padding: int = 0  # where the zeros begin that end the image data

    @property
    def blocks(self) -> int:
        """8x8 blocks of all components, at least."""
        across, down = zip(*self.components.values(), strict=True)
        wide, high, found = 8 * max(across), 8 * max(down), 0
        for h, v in zip(across, down, strict=True):
            found += -(-self.width * h // wide) * -(-self.height * v // high)
        return found


def parse(view: memoryview) -> Header:
    """See `read_header`.

    Raises:
        ImageError: a JPEG process that is not supported.
        ValueError, struct.error, IndexError: a damaged header.
    """
    frame, at = _Frame(), 2
    while not frame.components:
        marker, at, end = _segment(frame, view, at)
        if marker in (_SOI, _EOI, _SOS):
            raise ValueError("image data before a frame header")
        _take(frame, marker, view[at:end])
        at = end
    defect = _defect(frame, view, at)
    icc = b"".join(frame.icc[i] for i in sorted(frame.icc))
    decoder = PILLOW if frame.other or (len(frame.components) == 4 and icc[16:20] == b"CMYK") else ""
    if frame.depth != 8:
        decoder, defect = CODECS, defect or (_RUN if frame.padding else "")
    elif frame.padding:
        decoder = WHOLE
    return Header(
        frame.width,
        frame.height,
        frame.orientation or 1,
        defect,
        decoder,
        parts=_parts(frame, view),
        icc=icc,
        depth=frame.depth,
        frames=max(1, frame.pictures - frame.gain_map),
        note=GAIN_MAP if frame.gain_map else "",
    )


def _parts(frame: _Frame, view: memoryview) -> tuple[bytes | memoryview, ...]:
    """What the decoder gets, where that is not the whole file."""
    inks = len(frame.components) == 4 and not frame.adobe
    if not (frame.stray or frame.padding or inks):
        return ()
    starts, ends = [2, *(to for _, to in frame.stray)], [*(at for at, _ in frame.stray), frame.padding or len(view)]
    # With the marker or without it, viewers take inks for light; DALI only with it.
    head, tail = (view[:2], _ADOBE) if inks else (view[:2],), (_END,) if frame.padding else ()
    return (*head, *(view[at:to] for at, to in zip(starts, ends, strict=True)), *tail)


def _segment(frame: _Frame, view: memoryview, at: int) -> tuple[int, int, int]:
    """(marker, start, end) of the next segment; the payload follows its two bytes of length."""
    while True:
        first, start = at, at + 2  # as a rule
        if view[at] != 0xFF or not 0 < view[at + 1] < 0xFF:  # stray bytes or fill
            found = _NEXT.search(view, at)
            if found is None:
                raise IndexError("no marker")
            first, start = found.span()
        marker = view[start - 1]
        alone = marker in _ALONE
        passed = alone and not frame.scanned and marker not in (_SOI, _EOI)  # restarts of nothing
        if stray := (start if passed else first) - at:
            if _SECTOR in bytes(view[at : at + stray]):
                raise ValueError(f"a run of zeros behind byte {at}")
            frame.stray.append((at, at + stray))
        if not passed:
            break
        at = start
    if alone:
        return marker, start, start
    (length,) = struct.unpack_from(">H", view, start)
    if length < 2:
        raise ValueError("segment shorter than its own length field")
    return marker, start + 2, start + length


def _take(frame: _Frame, marker: int, payload: memoryview) -> None:
    if marker in _SOF:
        precision, frame.height, frame.width, count = struct.unpack_from(">BHHB", payload)
        if precision != 8 and (precision, marker) not in _DEEP and not (marker == _LOSSLESS and 2 <= precision <= 16):
            raise ImageError(Status.unsupported, f"JPEG with {precision}-bit samples is not supported")
        if marker not in _HUFFMAN + _OTHERS:
            raise ImageError(Status.unsupported, f"JPEG process SOF{marker - 0xC0} is not supported")
        if count not in ((1, 3, 4) if precision == 8 else (1, 3)):
            raise ImageError(Status.unsupported, f"JPEG with {count} components is not supported")
        frame.progressive, frame.other, frame.depth = marker in _PROGRESSIVE, marker in _OTHERS, precision
        for i in range(6, 6 + 3 * count, 3):
            h, v = factors = payload[i + 1] >> 4, payload[i + 1] & 15
            if not (1 <= h <= 4 and 1 <= v <= 4):
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
    elif frame.scanned:
        pass
    elif marker == _APP1 and not frame.orientation and bytes(payload[:6]) == b"Exif\0\0":
        frame.orientation = exif.orientation(payload[6:])
    elif marker == _APP2 and bytes(payload[:12]) == b"ICC_PROFILE\0":
        frame.icc.setdefault(payload[12], payload[14:])
    elif (marker == _APP1 and _XMP_MAP.search(payload)) or (marker == _APP2 and bytes(payload[:27]) == _ISO_MAP):
        frame.gain_map = True
    elif marker == _APP2 and bytes(payload[:4]) == b"MPF\0":
        with suppress(struct.error, LookupError, ValueError):
            frame.pictures = max(1, Directory(payload[4:])[_PICTURES][0])
    elif marker == _APP14 and bytes(payload[:5]) == b"Adobe" and len(payload) >= 12:
        frame.adobe = True


def _defect(frame: _Frame, view: memoryview, at: int) -> str:
    """What is wrong behind the frame header, up to the end-of-image marker; what follows it is not the image."""
    coded, seen = 0, set()
    try:
        while True:
            marker, start, at = _segment(frame, view, at)
            if marker == _EOI:
                break
            if marker in RESTARTS and not frame.restart:
                return "restart markers where there are none"
            if marker not in _BETWEEN:
                return f"unexpected marker FF{marker:02X} at byte {start}"
            if marker != _SOS:
                _take(frame, marker, view[start:at])
                continue
            ids = [view[start + 1 + 2 * i] for i in range(view[start])]
            seen.update(ids)
            frame.scanned = True
            found = scanned(view, at, frame.restart > 0)
            end, scan = found.end, view[at : found.end]
            tables = [view[start + 2 + 2 * i] & 15 for i in range(view[start])]
            defect = _scan_defect(frame, found, tables)
            if end is None or (defect == _RUN and view[end : end + 2] == _END):
                filled = len(bytes(scan).rstrip(b"\0"))
                filled += filled > 0 and scan[filled - 1] == 0xFF  # a zero that says that this is data
                if len(scan) - filled < len(ZEROS):
                    return defect or "truncated, no end-of-image marker"
                frame.padding = at + filled
                defect = _scan_defect(frame, scanned(view[: frame.padding], at, frame.restart > 0), tables)
            if defect:
                return defect
            coded += len(scan)
            if end is None:
                break
            at = end
    except (IndexError, struct.error):
        return "truncated, no end-of-image marker"
    except ValueError as error:
        return str(error)
    if missing := frame.components.keys() - seen:
        return f"no image data for {len(missing)} of {len(frame.components)} components"
    # A block takes a bit at least, in a sequential file two: the shortest codes of its DC and of its end.
    least = frame.blocks * (1 if frame.progressive else 2) // 8
    return f"{coded} bytes of image data cannot hold {frame.blocks} blocks" if coded < least else ""


def _scan_defect(frame: _Frame, scan: Scan, tables: list[int]) -> str:
    if not scan.in_order:
        return "restart markers out of order"
    # In a sequential scan zeros are blocks of the AC table's first symbol. Unless that is the end of the block,
    # all of their 63 coefficients are -1: no picture, but a sector that was never written.
    if scan.zeros and not frame.progressive and any(frame.first_ac.get(table, 0) for table in tables):
        return _RUN
    return ""


FORMAT = Format("JPEG", starts(b"\xff\xd8\xff"), parse, (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"))
