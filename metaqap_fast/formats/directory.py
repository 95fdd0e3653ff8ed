"""Directories of tags: how TIFF stores an image's properties, and a camera its EXIF data."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

ORIENTATION = 274  # the tag
_KINDS = {1: "B", 3: "H", 4: "I"}


class Directory(Mapping[int, tuple[int, ...]]):
    """The first directory's tags of whole numbers: tag -> its values, which are read when asked for.

    Raises:
        ValueError, struct.error, IndexError: no TIFF data, or damaged.
    """

    def __init__(self, view: memoryview) -> None:
        endian = {b"II": "<", b"MM": ">"}.get(bytes(view[:2]))
        if endian is None:
            raise ValueError("no byte-order mark")
        magic, at = struct.unpack_from(endian + "HI", view, 2)
        if magic != 42:
            raise ValueError("BigTIFF or not a TIFF")
        self.endian, self.at = endian, at
        self._view = view
        self._tags: dict[int, tuple[str, int, int]] = {}  # struct code, number of values, where they are
        (count,) = struct.unpack_from(endian + "H", view, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, n = struct.unpack_from(endian + "HHI", view, entry)
            code = _KINDS.get(kind)
            if code is None or n < 1:
                continue
            place = entry + 8
            if struct.calcsize(code) * n > 4:
                (place,) = struct.unpack_from(endian + "I", view, place)
            self._tags[tag] = code, n, place

    def __iter__(self) -> Iterator[int]:
        return iter(self._tags)

    def __len__(self) -> int:
        return len(self._tags)

    def __getitem__(self, tag: int) -> tuple[int, ...]:
        code, n, place = self._tags[tag]
        if place + n * struct.calcsize(code) > len(self._view):  # before room is made for four billion of them
            raise ValueError("a tag lies outside of the file")
        return struct.unpack_from(f"{self.endian}{n}{code}", self._view, place)

    def orientation(self) -> int:
        """How the image is to be turned, 1 to 8; 1 (not at all) where that is not said or makes no sense."""
        value = self.get(ORIENTATION, (1,))[0]
        return value if 1 <= value <= 8 else 1
