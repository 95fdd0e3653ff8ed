"""RAW files by LibRaw (the package rawpy): the sensor's data developed into a picture."""

from __future__ import annotations

import io

import numpy as np

from metaqap_fast.decode.extra import library
from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats import Header
from metaqap_fast.formats.format import differs
from metaqap_fast.records import Pixels

MOST = 2.5  # times the pixels that the header tells of: a sensor at 45 degrees has two of them for each
LAST = 8  # rows


def decode(data: memoryview, header: Header) -> Pixels:
    """See `PixelDecoder`: in sRGB, white as the camera measured it, brightness as LibRaw chooses it; not turned.

    The size is LibRaw's, which knows the margins of a sensor: about the header's.
    """
    rawpy = library("rawpy", header.format)
    with rawpy.imread(io.BytesIO(data)) as raw:
        width, height = raw.sizes.width, raw.sizes.height
        if not 0 < width * height <= MOST * header.width * header.height:  # before room is made
            raise differs((header.width, header.height), (width, height))
        flat = raw.raw_type == rawpy.RawType.Flat
        if flat and not raw.raw_image[-LAST:].any():  # LibRaw says nothing of data that is missing
            raise ImageError(Status.corrupt, "the sensor's data ends early")
        return np.asarray(raw.postprocess(use_camera_wb=True, user_flip=0, output_bps=8))
