"""Images that are in memory already: checked, named, and converted to what a file of them would decode to."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.errors import ImageError, Status, UsageError, kind
from metaqap_fast.records import Encoded, Pixels

ORIENTATION = 0x0112  # the EXIF tag
_TO_8_BIT = ((np.arange(1 << 16, dtype=np.uint32) * 255 + 32767) // 65535).astype(np.uint8)  # as 16-bit files are
_CONVERTED = {"P": "RGB", "PA": "RGBA", "La": "LA", "RGBa": "RGBA", "YCbCr": "RGB", "HSV": "RGB"}  # PIL modes


def encoded(images: Iterable[tuple[Any, Any]], max_bytes: int) -> Iterator[Encoded]:
    """(key, bytes of a file) -> `Encoded`, one at a time; None, and more than `max_bytes`, are a failed image.

    Raises:
        UsageError: what is no such pair; the message names its index and key.
    """
    for index, pair in enumerate(images):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise UsageError(f"images[{index}] is {kind(pair)}, not a pair (key, bytes)")
        key, data = pair
        if not isinstance(key, (str, bytes, os.PathLike)):
            raise UsageError(f"the key of images[{index}] is {kind(key)}, not str or bytes")
        try:
            name = os.fsencode(key)
        except UnicodeEncodeError:
            raise UsageError(f"the key of images[{index}] is {key!r}, which cannot be written as UTF-8") from None
        yield _encoded(name, data, f"images[{index}] (key {key!r})", max_bytes)


def numbered_bytes(images: Iterable[Any], max_bytes: int) -> Iterator[Encoded]:
    """The same for the bytes alone; the keys are 0, 1, 2, ..."""
    for index, data in enumerate(images):
        yield _encoded(b"%d" % index, data, f"images[{index}]", max_bytes)


def numbered_arrays(images: Iterable[Any]) -> Iterator[tuple[bytes, Pixels]]:
    """Arrays and PIL images -> (key, [H, W, 3] uint8 RGB), see `rgb`; the keys are 0, 1, 2, ...

    Raises:
        UsageError: see `rgb`.
    """
    for index, image in enumerate(images):
        yield b"%d" % index, rgb(image, f"images[{index}]")


def several(images: Any, what: str, instead: str) -> Iterable[Any]:
    """`images`, if it is an iterable of many; one image alone is what is most often given by mistake.

    Raises:
        UsageError: it is not.
    """
    column = getattr(images, "ndim", 0) == 1 and images.dtype == object  # of pandas
    one = isinstance(images, (str, bytes, bytearray, memoryview)) or (getattr(images, "ndim", 4) != 4 and not column)
    try:
        iter(images)
    except TypeError:
        one = True
    if one:
        raise UsageError(f"images is {kind(images)}, not an iterable of {what}: {instead}")
    return cast(Iterable[Any], images)


def rgb(image: Any, where: str) -> Pixels:
    """An array or a PIL image as [H, W, 3] uint8 RGB in memory of its own.

    An array is [H, W] or [H, W, C], C 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha), of uint8, uint16 or bool.
    Alpha is ignored, 16 bits become 8 and CMYK becomes RGB as the decoder does it with files. A PIL image is turned as
    its EXIF orientation says.

    Raises:
        UsageError: anything else; the message begins with `where`.
    """
    array = _pil_array(image, where) if _is_pil(image) else _array(image, where)
    shape = f"{array.dtype} {list(array.shape)}"
    if array.dtype.kind not in "ub" or array.dtype.itemsize > 2:
        hint = ": scale it to 0..255 and convert it to uint8" if array.dtype.kind in "fiu" else ""
        raise UsageError(f"{where} is {shape}, not uint8, uint16 or bool{hint}")
    if array.ndim == 2:
        array = array[..., None]
    if not array.size:
        raise UsageError(f"{where} is {shape}: it has no pixels")
    if array.ndim != 3 or not 1 <= array.shape[2] <= 4:
        hint = ": are its channels first?" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        raise UsageError(f"{where} is {shape}, not [H, W] or [H, W, channels], channels 1 to 4{hint}")
    array = array[..., :1] if array.shape[2] < 3 else array[..., :3]
    if array.dtype == np.bool_:
        array = array * np.uint8(255)
    elif array.dtype.itemsize == 2:
        array = _TO_8_BIT[array]
    # Always a copy: the next one from a generator may lie in the same memory before this one is scored.
    return np.array(np.broadcast_to(array, (*array.shape[:2], 3)), np.uint8, order="C")


def decoded(value: Any) -> bool:
    """Whether it may be a decoded image: an array of any library, or a PIL image."""
    return hasattr(value, "__array__") or _is_pil(value)


def _encoded(key: bytes, data: Any, where: str, max_bytes: int) -> Encoded:
    if data is None:  # such as NULL in a database
        return Encoded(key, b"", ImageError(Status.unreadable, "no data: None in place of bytes"))
    if not isinstance(data, (bytes, bytearray, memoryview)):
        if isinstance(data, (str, os.PathLike)):
            hint = ": for the names of files use score"
        else:
            hint = ": for decoded images use score_arrays" if decoded(data) else ""
        raise UsageError(f"{where} is {kind(data)}, not the bytes of an image file{hint}")
    nbytes = data.nbytes if isinstance(data, memoryview) else len(data)
    if nbytes > max_bytes:
        return Encoded(key, b"", ImageError(Status.too_large, f"{nbytes} bytes, over the limit of {max_bytes}"))
    return Encoded(key, bytes(data))  # a copy of what can change: see `rgb`


def _array(image: Any, where: str) -> NDArray[Any]:
    if not hasattr(image, "__array__"):
        hint = ": for the bytes of image files use score_bytes" if isinstance(image, (bytes, bytearray)) else ""
        hint = ": for the names of files use score" if isinstance(image, (str, os.PathLike)) else hint
        raise UsageError(f"{where} is {kind(image)}, not an array or a PIL image{hint}")
    try:
        return np.asarray(image)
    except Exception as error:  # noqa: BLE001 -- a tensor on a GPU, for one
        raise UsageError(f"{where} is {kind(image)} that cannot be made an array: {error}") from None


def _is_pil(image: Any) -> bool:
    pil = sys.modules.get("PIL.Image")  # not imported: then it is none
    return pil is not None and isinstance(image, pil.Image)


def _pil_array(image: Any, where: str) -> NDArray[Any]:
    from PIL import ImageOps

    try:
        if image.getexif().get(ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
        if image.mode in _CONVERTED:
            image = image.convert(_CONVERTED[image.mode])
        array = np.asarray(image)
    except Exception as error:  # noqa: BLE001 -- PIL reads the file now, and has many ways to fail
        raise UsageError(f"{where} is a PIL image that cannot be read: {error}") from None
    if image.mode == "CMYK":
        paper = 255 - array.astype(np.uint16)
        return (paper[..., :3] * paper[..., 3:] // 255).astype(np.uint8)
    if image.mode == "I" and array.size and array.min() >= 0 and array.max() < 1 << 16:
        return array.astype(np.uint16)  # how a 16-bit file is opened
    if image.mode in ("I", "F", "LAB"):
        raise UsageError(f"{where} is a PIL image of mode {image.mode}: convert it to RGB")
    return array
