"""Pictures made smaller, by the filter of DALI's `resize` (cubic, antialiased), in C (kernels/resize).

On a CPU DALI takes four times as long, more than it takes to decode a large JPEG. It does it where the package was
installed without a C compiler.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from metaqap_fast.records import Pixels


@functools.cache
def compiled() -> Callable[[Pixels, tuple[int, int]], Pixels] | None:
    """From pixels [H, W, 3] uint8 and (width, height) to pixels of that size; None where it was not compiled.

    What it returns raises MemoryError.
    """
    try:
        function = ctypes.CDLL(str(Path(__file__).with_name("_resize.so"))).resize_cubic
    except (OSError, AttributeError):  # none, of another machine, or of another version of the package
        return None
    picture = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    function.argtypes = [*picture, *picture]
    function.restype = ctypes.c_int32

    def resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
        pixels = np.ascontiguousarray(pixels)
        made = np.empty((size[1], size[0], 3), np.uint8)
        if function(pixels.ctypes.data, *pixels.shape[:2], made.ctypes.data, *made.shape[:2]):
            raise MemoryError("not enough memory to resize a picture")
        return made

    return resized
