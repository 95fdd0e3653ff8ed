"""Members of a zip archive, by its directory at the end; nothing is unpacked, and names are only text.

Not by the standard library's `zipfile`, which keeps an object for every member and lets one thread read at a time.
"""

from __future__ import annotations

import bz2
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats.format import START
from metaqap_fast.input.data import Data, Read
from metaqap_fast.input.members import Damaged, Kind, Names, Options, check_size
from metaqap_fast.records import Entry, Stamp

CHUNK = 1 << 20  # bytes of the directory read at once
_ENTRY = struct.Struct("<4s4x2H4x3I5H4xI")  # of the directory: 46 bytes
_LOCAL = struct.Struct("<4s2x2H4x3I2H")  # header before a member: 30 bytes
_END = struct.Struct("<4s4x2H2IH")  # 22 bytes
_END64 = struct.Struct("<4s8x4x8x2Q2Q")  # 56 bytes
_FULL = 0xFFFFFFFF  # the number stands in the zip64 extra field
_STORED, _DEFLATED, _BZIP2 = 0, 8, 12
SLACK = 128  # bytes beyond the name that a local header's extra field rarely has


@dataclass(frozen=True, slots=True)
class ZipMember:
    """An `Entry`: a member of a zip archive, as its directory describes it."""

    key: bytes
    data: Data
    offset: int  # of its local header
    before: int  # bytes between there and its data, if they are as usual
    packed: int  # bytes
    size: int  # bytes
    crc: int
    method: int
    encrypted: bool
    kept = 0

    @property
    def distant(self) -> bool:
        """See `Entry.distant`."""
        return self.data.distant

    def stamp(self) -> Stamp:
        """Its size and checksum."""
        return Stamp(self.size, f"{self.crc:08x}")

    def read(self, max_bytes: int, ahead_bytes: int) -> bytes | None:
        """See `Entry.read`."""
        if self.encrypted:
            raise ImageError(Status.unreadable, "encrypted")
        check_size(max(self.size, self.packed), max_bytes)
        if max(self.size, self.packed) > ahead_bytes:
            return None
        data = self.unpacked(self.size + 1)
        if len(data) != self.size:
            more = "more than" if len(data) > self.size else f"{len(data)} instead of"
            raise ImageError(Status.unreadable, f"{more} the {self.size} bytes that the archive says it has")
        if zlib.crc32(data) != self.crc:
            raise ImageError(Status.unreadable, "its checksum is not the one in the archive")
        return data

    def unpacked(self, most: int) -> bytes:
        """Its first bytes, at most that many."""
        packed = self.packed if most > self.size else min(self.packed, 2 * most + SLACK)
        found = self.data.read(self.offset, self.before + packed)
        if len(found) < _LOCAL.size or found[:4] != b"PK\3\4":
            raise ImageError(Status.unreadable, "the archive's directory points to a place without a member")
        *_, name, extra = _LOCAL.unpack_from(found)
        begin = _LOCAL.size + name + extra
        if begin > self.before:
            found = self.data.read(self.offset, begin + packed)
        raw = found[begin : begin + packed]
        if len(raw) < packed:
            raise ImageError(Status.unreadable, f"the archive ends within it: {len(raw)} of {packed} bytes")
        try:
            if self.method == _STORED:
                return raw[:most]
            if self.method == _DEFLATED:
                return zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw, most)
            if self.method == _BZIP2:
                return bz2.BZ2Decompressor().decompress(raw, most)
        except (zlib.error, OSError) as error:
            raise ImageError(Status.unreadable, f"it cannot be decompressed: {error}") from None
        raise ImageError(Status.unreadable, f"compressed by zip method {self.method}, which is not supported")


def members(data: Data, names: Names, options: Options) -> Iterator[Entry]:
    """Members that are images, in the order of the directory."""
    with data.scan() as read:
        end = _end(read, data.size or 0)
        if end is None:
            yield from _without_directory(read, data, names)
            raise Damaged("cut short, or not a zip archive: there is no directory at its end")
        at, stop, moved, count = end
        buffer, found = b"", 0
        while found < count:
            if len(buffer) < _ENTRY.size or len(buffer) < _ENTRY.size + sum(_ENTRY.unpack_from(buffer)[6:9]):
                more = read(at, min(CHUNK, stop - at))
                at += len(more)
                buffer += more
                if not more:
                    break
                continue
            signature, flags, method, crc, packed, size, *lengths, _, _, offset = _ENTRY.unpack_from(buffer)
            if signature != b"PK\1\2":
                break
            name_end, extra_end = _ENTRY.size + lengths[0], _ENTRY.size + lengths[0] + lengths[1]
            name, extra = buffer[_ENTRY.size : name_end], buffer[name_end:extra_end]
            size, packed, offset = _zip64(extra, size, packed, offset)
            buffer = buffer[extra_end + lengths[2] :]
            found += 1
            if not name.endswith(b"/"):
                before = _LOCAL.size + len(name) + SLACK
                rest = data, offset + moved, before, packed, size, crc, method, bool(flags & 1)
                if (key := names.take(name, partial(_start, rest))) is not None:
                    yield ZipMember(key, *rest)
    if found < count:
        raise Damaged(f"its directory has {found} of {count} members")


def _start(rest: tuple[Data, int, int, int, int, int, int, bool]) -> bytes:
    """The first bytes of a member; none if they cannot be read."""
    member = ZipMember(b"", *rest)
    try:
        return b"" if member.encrypted else member.unpacked(START)
    except ImageError:
        return b""


def _end(read: Read, size: int) -> tuple[int, int, int, int] | None:
    """Where the directory starts and ends, by how much offsets are off, and how many members it has."""
    tail_at = max(0, size - _END.size - 0xFFFF)
    tail = read(tail_at, size - tail_at)
    place = tail.rfind(b"PK\5\6")
    if place < 0 or len(tail) < place + _END.size:
        return None
    _, _, count, length, start, _ = _END.unpack_from(tail, place)
    end = tail_at + place
    locator = read(end - 20, 20) if end >= 20 else b""
    if locator[:4] == b"PK\6\7":
        record = read(int.from_bytes(locator[8:16], "little"), _END64.size)
        if len(record) == _END64.size and record[:4] == b"PK\6\6":
            _, _, count, length, start = _END64.unpack(record)
            return start, start + length, 0, count
    moved = max(0, end - length - start)  # something was put before the archive
    return start + moved, end, moved, count


def _zip64(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    while len(extra) >= 4:
        tag, length = struct.unpack_from("<2H", extra)
        if tag == 1:
            numbers = iter(struct.unpack_from(f"<{min(length, len(extra) - 4) // 8}Q", extra, 4))
            size = next(numbers, size) if size == _FULL else size
            packed = next(numbers, packed) if packed == _FULL else packed
            offset = next(numbers, offset) if offset == _FULL else offset
            break
        extra = extra[4 + length :]
    return size, packed, offset


def _without_directory(read: Read, data: Data, names: Names) -> Iterator[Entry]:
    """What can be had of an archive that was cut short: members one behind the other, as far as they say how long."""
    at = 0
    while len(header := read(at, _LOCAL.size)) == _LOCAL.size and header[:4] == b"PK\3\4":
        _, flags, method, crc, packed, size, name_length, extra_length = _LOCAL.unpack(header)
        if flags & 8 or packed == _FULL:
            break
        name, before = read(at + _LOCAL.size, name_length), _LOCAL.size + name_length + extra_length
        rest = data, at, before, packed, size, crc, method, bool(flags & 1)
        if not name.endswith(b"/") and (key := names.take(name, partial(_start, rest))) is not None:
            yield ZipMember(key, *rest)
        at += before + packed


KIND = Kind("zip", (b".zip",), members)
