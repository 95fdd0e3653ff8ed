"""The data of one scan of a JPEG (ITU T.81): where it ends, and what can be seen of it without decoding.

This is most of what there is to check in a JPEG, and every byte of every file. So it is also in C (kernels/jpeg), which
takes a fifth of the time and leaves the interpreter's lock to others meanwhile. `by_python` is what it is tested
against, and what runs where the package was installed without a C compiler.
"""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

ZEROS = bytes(64)
RESTARTS = range(0xD0, 0xD8)
# A marker, or a run of fill bytes with what follows; the second not for restart markers. They begin with a fixed byte,
# which `re` looks for at the speed of memory, and eat every run, so that a file full of them takes no quadratic time.
_MARKER = re.compile(rb"\xff(?:[\x01-\xfe]|\xff++(.?))", re.DOTALL)
_END_OF_SCAN = re.compile(rb"\xff(?:[\x01-\xcf\xd8-\xfe]|\xff++(.?))", re.DOTALL)
_DATA = frozenset([b"", b"\0"])  # what is no marker after fill bytes
_IN_SCAN = _DATA | {bytes([marker]) for marker in RESTARTS}
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")


class Scan(NamedTuple):
    """What was found.

    end: where the next marker stands, or the fill before it; None without one. in_order: restart markers, if they
    belong to the scan, are counted as they should be. zeros: there is a run of as many zeros as `ZEROS` has.
    """

    end: int | None
    in_order: bool
    zeros: bool


class _Found(ctypes.Structure):
    """`Scan` in kernels/jpeg/scan.c."""

    _fields_ = (
        ("end", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("marked", "in_order", "zeros")),
    )


def scanned(view: memoryview, at: int, restarts: bool) -> Scan:
    """What is behind byte `at`. `restarts`: restart markers belong to the scan, and do not end it."""
    return (compiled() or by_python)(view, at, restarts)


def by_python(view: memoryview, at: int, restarts: bool) -> Scan:
    """See `scanned`."""
    pattern, inside = (_END_OF_SCAN, _IN_SCAN) if restarts else (_MARKER, _DATA)
    end = next((match.start() for match in pattern.finditer(view, at) if match[1] not in inside), None)
    data = bytes(view[at:end])
    markers = _RESTART.findall(data) if restarts else []
    return Scan(end, all(marker[0] == 0xD0 + i % 8 for i, marker in enumerate(markers)), ZEROS in data)


@functools.cache
def compiled() -> Callable[[memoryview, int, bool], Scan] | None:
    """The same in C; None where it was not compiled."""
    try:
        function = ctypes.CDLL(str(Path(__file__).with_name("_scan.so"))).jpeg_scan
    except (OSError, AttributeError):  # none, of another machine, or of another version of the package
        return None
    function.argtypes = [ctypes.c_void_p, *(ctypes.c_int64,) * 2, ctypes.c_int32, ctypes.c_void_p]
    function.restype = None

    def by_c(view: memoryview, at: int, restarts: bool) -> Scan:
        data, found = np.frombuffer(view, np.uint8), _Found()
        function(data.ctypes.data, len(data), min(at, len(data)), restarts, ctypes.byref(found))
        return Scan(found.end if found.marked else None, bool(found.in_order), bool(found.zeros))

    return by_c
