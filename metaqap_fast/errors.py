"""What can go wrong: a status for one image, an exception for a run."""

from __future__ import annotations

from enum import IntEnum
from typing import Any


class Status(IntEnum):
    """Outcome of one image, stored as `u1` in the score file."""

    ok = 0
    unreadable = 1  # the bytes could not be read: missing, no permission, not a regular file
    unsupported = 2  # not an image format (or variant of one) that this program scores
    corrupt = 3  # an image format, but its header or its pixels cannot be decoded
    too_large = 4  # more bytes, pixels, time to decode or memory to decode than a limit allows
    engine_error = 5  # decoded, but the inference engine failed on it
    too_small = 6  # fewer pixels along its shorter side than the user asked for


class ImageError(Exception):
    """One image failed. Becomes that image's row; never ends a run.

    `out_of_memory`: because memory ran out, so that the process in which it happened may no longer be sound.
    """

    def __init__(self, status: Status, reason: str, *, out_of_memory: bool = False) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.out_of_memory = out_of_memory


class MetaqapError(Exception):
    """The run could not complete. Shown to the user as one line, exit status 1."""

    exit_code = 1


class UsageError(MetaqapError):
    """The request itself is wrong (names, options, an existing output). Exit status 2."""

    exit_code = 2


def kind(value: Any) -> str:
    """What a value is, for a message about it."""
    if value is None:
        return "None"
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"an array {list(value.shape)} of {value.dtype}"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
