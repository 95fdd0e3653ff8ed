"""Standard output and standard error that cannot be written: a full disk, a closed descriptor, a reader that left.

Progress is not worth a run: what standard error does not take is dropped, and the work goes on. Results are worth a
word: the first that standard output does not take is an error.
"""

from __future__ import annotations

import io
import os
import re
import select
import sys
from typing import Any, TextIO

from metaqap_fast.errors import MetaqapError

# Control characters, separators of lines, changes of direction, and halves of characters (bytes that are not UTF-8).
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(text: str, keep: str = "") -> str:
    """Text for a terminal: characters that would act on it, as names of files may hold, are escaped."""
    return _HIDDEN.sub(lambda match: match[0] if match[0] in keep else _escaped(match[0]), text)


def _escaped(character: str) -> str:
    byte = ord(character) - 0xDC00  # of a name that is no UTF-8, see os.fsdecode
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else character.encode("unicode_escape").decode()


def counted(number: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


class Results(io.FileIO):
    """Standard output. The first write that fails raises; those after it are dropped, such as Python's last flush."""

    lost = False

    def write(self, data: Any) -> int:
        """All of it.

        Raises:
            MetaqapError: it cannot be written.
        """
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest and not self.lost:
                written = super().write(rest)
                if written is None:  # it was made non-blocking, by whoever has the terminal too
                    select.select([], [self], [])
                rest = rest[written or 0 :]
        except OSError as error:
            self.lost = True
            raise MetaqapError(f"cannot write to standard output: {error.strerror}") from None
        return size


class Progress(io.FileIO):
    """Standard error. What it does not take is dropped."""

    def write(self, data: Any) -> int:
        """All of it, or as much as can be written now."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest and (written := super().write(rest)):
                rest = rest[written:]
        except OSError:
            pass
        return size


def guard() -> None:
    """Make this process's standard streams behave as above; closed ones are opened, so that no file gets their number.

    Streams that somebody put in their place are left alone.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)  # a write to it fails, as to a closed one
    sys.stdin = sys.stdin or open(0)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(Results(1, "w", closefd=False), sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(Progress(2, "w", closefd=False), sys.stderr)


def _text(raw: io.FileIO, before: TextIO | None) -> io.TextIOWrapper:
    encoding = before.encoding if before else "utf-8"
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=True)
