"""Local files read many at a time.

From Python each system call gives the interpreter's lock away and waits to have it back, which takes longer than to
read a small file. So files are opened, looked at and read in C (kernels/files), many in one call. A file that is
anything but easy (missing, no regular file, empty, large, shorter than it said) is left to `Entry.read`, which knows
what to say of it; so are all of them where the package was installed without a C compiler.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.records import Stamp


class Read(NamedTuple):
    """A file's bytes, and what was seen of it before they were read."""

    data: memoryview
    stamp: Stamp


class _File(ctypes.Structure):
    """`File` in kernels/files/read.c."""

    _fields_ = (
        ("path", ctypes.c_char_p),
        ("size", ctypes.c_int64),
        ("mtime_ns", ctypes.c_int64),
        ("data", ctypes.c_void_p),
        ("fd", ctypes.c_int32),
        ("complete", ctypes.c_int32),
    )


def read_files(paths: Sequence[bytes], is_wanted: Callable[[int], bool]) -> list[Read | None]:
    """The files, in their order; None for what is not easy. `is_wanted`: whether one of so many bytes is to be read."""
    functions = compiled()
    if functions is None:
        return [None] * len(paths)
    open_all, read_and_close = functions
    # C would take what stands before a zero for the whole.
    files = (_File * len(paths))(*(_File(None if b"\0" in path else path) for path in paths))
    places: list[NDArray[np.uint8] | None] = [None] * len(paths)
    open_all(files, len(paths))
    try:
        for i, file in enumerate(files):
            if file.fd >= 0 and file.size and is_wanted(file.size):
                places[i] = place = np.empty(file.size, np.uint8)
                file.data = place.ctypes.data
    finally:
        read_and_close(files, len(paths))
    return [
        Read(place.data, Stamp(file.size, str(file.mtime_ns))) if place is not None and file.complete else None
        for file, place in zip(files, places, strict=True)
    ]


@functools.cache
def compiled() -> tuple[Callable[..., None], Callable[..., None]] | None:
    """The two calls in C; None where they were not compiled."""
    try:
        library = ctypes.CDLL(str(Path(__file__).with_name("_files.so")))
        functions = library.files_open, library.files_read
    except (OSError, AttributeError):  # none, of another machine, or of another version of the package
        return None
    for function in functions:
        function.argtypes = [ctypes.c_void_p, ctypes.c_int64]
        function.restype = None
    return functions
