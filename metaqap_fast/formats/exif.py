"""EXIF: how the camera was held."""

from __future__ import annotations

import struct

from metaqap_fast.formats.directory import Directory


def orientation(view: memoryview) -> int:
    """How an image is to be turned, 1 to 8.

    EXIF is metadata: what cannot be read in it means "not at all" (1), never a failed image.
    """
    try:
        return Directory(view).orientation()
    except (struct.error, LookupError, ValueError):
        return 1
