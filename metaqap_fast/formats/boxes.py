"""Boxes of ISO base media files (ISO/IEC 14496-12): how HEIF, AVIF, JPEG XL and CR3 are laid out."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_USER = b"uuid"


def boxes(view: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """(kind, content) of the boxes that stand side by side; a `uuid` box's kind is its 16 bytes.

    What is no box ends them, and the last one is cut where the file is: whether something is missing is seen where it
    is needed. A box takes eight bytes at least, so that there are never more of them than that.
    """
    at = 0
    while at + 8 <= len(view):
        size, kind = struct.unpack_from(">I4s", view, at)
        start = at + 8
        if size == 1:
            if start + 8 > len(view):
                return
            (size,) = struct.unpack_from(">Q", view, start)
            start += 8
        elif size == 0:  # up to the end
            size = len(view) - at
        if size < start - at:
            return
        if kind == _USER:
            kind, start = bytes(view[start : start + 16]), start + 16
        yield kind, view[start : at + size]
        at += size


class Reader:
    """Whole numbers, one after the other. Reading beyond the end raises struct.error."""

    def __init__(self, view: memoryview) -> None:
        self.view, self.at = view, 0

    def take(self, nbytes: int) -> int:
        """The next number, of 0 to 8 bytes; one of none is 0."""
        if self.at + nbytes > len(self.view):
            raise struct.error("a box is shorter than what it lists")
        value = int.from_bytes(self.view[self.at : self.at + nbytes], "big")
        self.at += nbytes
        return value

    def version(self) -> tuple[int, int]:
        """Version and flags, at the start of a full box."""
        return self.take(1), self.take(3)

    def rest(self) -> memoryview:
        """What has not been read."""
        return self.view[self.at :]
