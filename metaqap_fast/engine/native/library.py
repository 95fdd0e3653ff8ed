"""The compiled kernel (kernels/cpu) and the structures of mobilenet.h that it is called with."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

from metaqap_fast.engine.native.reader import Unsuited

_Pointer = ctypes.c_void_p


class ProductC(ctypes.Structure):
    """`Product`."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("inputs", "outputs")),
        *((name, _Pointer) for name in ("weights", "bias", "scale")),
    )


class StepsC(ctypes.Structure):
    """`Steps`."""

    _fields_ = tuple((name, _Pointer) for name in ("bias", "wide_shift", "shift", "cap", "step", "times"))


class NarrowingC(ctypes.Structure):
    """`Narrowing`."""

    _fields_ = (
        *((name, _Pointer) for name in ("start", "shift", "times")),
        *((name, ctypes.c_int32) for name in ("kept", "added", "half")),
    )


class BlockC(ctypes.Structure):
    """`Block`."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("height", "width", "kernel", "stride", "top", "left")),
        *((name, ctypes.c_int32) for name in ("residual", "wide")),
        ("expand", ProductC),
        ("steps", StepsC),
        ("depthwise", _Pointer),
        ("depthwise_bias", _Pointer),
        ("project", ProductC),
        ("residual_scale", ctypes.c_float),
        ("narrowing", NarrowingC),
    )


class NetworkC(ctypes.Structure):
    """`Network`."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("size", "eight", "top", "left")),
        ("outside", ctypes.c_uint16 * 4),
        ("stem", ProductC),
        ("steps", StepsC),
        ("blocks", ctypes.c_int32),
        ("block", _Pointer),
        ("epsilon", ctypes.c_float),
        ("bias", ctypes.c_float),
        ("head", _Pointer),
        ("around", ctypes.c_float * 4),
    )


@functools.cache
def library() -> Any:
    """The compiled kernel.

    Raises:
        Unsuited: it was not compiled when the package was installed, or cannot be loaded.
    """
    path = Path(__file__).with_name("_mobilenet.so")
    if not path.exists():
        raise Unsuited("the package was installed without a C compiler")
    try:
        found = ctypes.CDLL(str(path))
    except OSError as error:
        raise Unsuited(f"{path.name} cannot be loaded: {error}") from None
    return declared(found)


def declared(found: Any) -> Any:
    """A library with the types of its functions.

    Raises:
        Unsuited: it is of another version of the package.
    """
    try:
        for function in (found.mobilenet_units, found.mobilenet_units_half):
            function.argtypes = [_Pointer, ctypes.c_int32, ctypes.c_int64, _Pointer, _Pointer]
            function.restype = None
        found.mobilenet_has_halves.argtypes = []
        found.mobilenet_has.argtypes = [ctypes.c_int32, ctypes.c_int32]
        found.mobilenet_times.argtypes = [_Pointer, ctypes.c_int32, *(_Pointer for _ in range(4))]
        found.mobilenet_peak.argtypes = [ctypes.c_int32, ctypes.c_int32, ctypes.c_int64]
    except AttributeError:
        raise Unsuited("the compiled kernel is of another version: install the package again") from None
    found.mobilenet_times.restype = found.mobilenet_peak.restype = ctypes.c_double
    found.mobilenet_workspace.argtypes = [_Pointer, ctypes.c_int32]
    found.mobilenet_workspace.restype = ctypes.c_int64
    found.mobilenet_run.argtypes = [_Pointer, ctypes.c_int32, _Pointer, _Pointer, _Pointer]
    found.mobilenet_run.restype = ctypes.c_double
    return found
