"""Names in a file, or by standard input: one a line, or each with a NUL behind it.

A name stands as it is. Only if there is no such file, a line that begins with # is a comment, and a line that begins
with a space, a quote or ~ is read as a shell would. With NUL there are neither. A byte-order mark is no part of a name.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import IO

from metaqap_fast.errors import UsageError

BLOCK = 1 << 20  # bytes of a list read at once
TEXTS = (b".txt", b".lst", b".list", b".csv", b".tsv", b".json", b".jsonl")  # a list that misses its @
ODD = tuple(b"# \t'\"~")  # what a line begins with that may not be a name


def read_list(name: str, content: bytes | None = None) -> Iterator[bytes]:
    """The names in a list; `-` is standard input. Args: its name, and its content if it is no file.

    Raises:
        UsageError: it cannot be read, or names nothing.
    """
    try:
        with _opened(name) if content is None else io.BytesIO(content) as file:
            block, rest, named = file.read(BLOCK).removeprefix(codecs.BOM_UTF8), b"", False
            if block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise UsageError(f"the list {name} is UTF-16: save it as UTF-8")
            separator, other = (b"\0", b"") if b"\0" in block else (b"\n", b"\0")
            while block or rest:
                if other and other in block:
                    raise UsageError(f"the list {name} has names that end in newlines and names that end in NUL")
                *names, rest = (rest + block).split(separator) if block else (rest, b"")
                for line in names:
                    if line and (line := line if separator == b"\0" else _name(line.rstrip(b"\r"))):
                        named = True
                        yield line
                block = file.read(BLOCK)
    except OSError as error:
        raise UsageError(f"cannot read the list {name}: {error.strerror}") from None
    if not named:
        raise UsageError(f"the list {name} names no image")


def _opened(name: str) -> AbstractContextManager[IO[bytes]]:
    return nullcontext(sys.stdin.buffer) if name == "-" else open(name, "rb")


def _name(line: bytes) -> bytes:
    if not line or line[0] not in ODD or os.path.lexists(line):
        return line
    if not (line := line.strip()) or line.startswith(b"#"):
        return b""
    if line[0] in b"'\"" and line[-1] == line[0] and len(line) > 2:
        return line[1:-1]
    return os.path.expanduser(line)
