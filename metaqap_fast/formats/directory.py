"""Directories of tags: how TIFF stores an image's properties, and a camera its EXIF data."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

ORIENTATION = 274  # the tag
_KINDS = {1: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 13: "I", 16: "Q", 18: "Q"}
_SIZES = {code: struct.calcsize("<" + code) for code in "BbHhIiQ"}
# By its magic number: codes of an offset and of a count of entries, bytes of an entry, struct of its head.
_FORMS = {42: ("I", "H", 12, "HHI"), 43: ("Q", "Q", 20, "HHQ")}


class Directory(Mapping[int, tuple[int, ...]]):
    """A directory's tags of whole numbers: tag -> its values, which are read when asked for. TIFF or BigTIFF.

    Args:
        view: the file, from its byte-order mark.
        at: where the directory is; the first, if not given.

    Raises:
        ValueError, struct.error, IndexError: no TIFF data, or damaged.
    """

    def __init__(self, view: memoryview, at: int | None = None) -> None:
        endian = {b"II": "<", b"MM": ">"}.get(bytes(view[:2]))
        if endian is None:
            raise ValueError("no byte-order mark")
        (magic,) = struct.unpack_from(endian + "H", view, 2)
        if magic not in _FORMS:
            raise ValueError("not a TIFF")
        offset, number, size, head = _FORMS[magic]
        room = _SIZES[offset]  # for a value in the entry itself
        if at is None:
            (at,) = struct.unpack_from(endian + offset, view, room)
        self.endian, self.at = endian, at
        self.nbytes = len(view)
        self._view = view
        self._tags: dict[int, tuple[str, int, int]] = {}  # struct code, number of values, where they are
        if at > len(view):  # struct has no words for 64 bits
            raise ValueError("a directory lies outside of the file")
        (count,) = struct.unpack_from(endian + number, view, at)
        first = at + _SIZES[number]
        end = first + size * count
        for entry in range(first, end, size):
            tag, kind, n = struct.unpack_from(endian + head, view, entry)
            code = _KINDS.get(kind)
            if code is None or n < 1 or tag in self._tags:
                continue
            place = entry + size - room
            if _SIZES[code] * n > room:
                (place,) = struct.unpack_from(endian + offset, view, place)
            self._tags[tag] = code, n, place
        self.next = 0  # where the next directory is; 0 if there is none, or no room to say it
        if end + room <= len(view):
            (self.next,) = struct.unpack_from(endian + offset, view, end)

    def __iter__(self) -> Iterator[int]:
        return iter(self._tags)

    def __len__(self) -> int:
        return len(self._tags)

    def __getitem__(self, tag: int) -> tuple[int, ...]:
        code, n, _ = self._tags[tag]
        values = struct.unpack(f"{self.endian}{n}{code}", self.stored(tag))
        if code.islower() and min(values) < 0:
            raise ValueError("a negative value")
        return values

    def stored(self, tag: int) -> memoryview:
        """A tag's values as they are stored."""
        code, n, place = self._tags[tag]
        if place + n * _SIZES[code] > len(self._view):  # before room is made for four billion of them
            raise ValueError("a tag lies outside of the file")
        return self._view[place : place + n * _SIZES[code]]

    def with_first(self, tag: int, value: int) -> tuple[memoryview, bytes, memoryview]:
        """The file, in parts, with another first value of a tag."""
        code, _, place = self._tags[tag]
        return self._view[:place], struct.pack(self.endian + code, value), self._view[place + _SIZES[code] :]

    def orientation(self) -> int:
        """How the image is to be turned, 1 to 8; 1 (not at all) where that is not said or makes no sense."""
        value = self.get(ORIENTATION, (1,))[0]
        return value if 1 <= value <= 8 else 1
