"""Small pictures of images, made by the decoder that scoring has, in its own process."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator

from PIL import Image

from metaqap_fast.decode import DecodeOptions, Limits, create, views
from metaqap_fast.input.reading import read_all
from metaqap_fast.records import Entry

SIDE = 144  # pixels of the shorter side
WIDEST, HIGHEST = 2 * SIDE, 2 * SIDE
QUALITY = 70


def thumbnails(entries: Iterable[Entry]) -> Iterator[tuple[bytes, str]]:
    """Key and data URL of each image that can be decoded, some dozens in memory at once."""
    decoder = create(DecodeOptions(SIDE), limits=Limits())
    try:
        for found in decoder.stream(read_all(entries)):
            if found.error is None:
                picture = Image.fromarray(views.joined(found.views, found.width, found.height))
                picture.thumbnail((WIDEST, HIGHEST))
                out = io.BytesIO()
                picture.save(out, "JPEG", quality=QUALITY, optimize=True)
                yield found.key, "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
    finally:
        decoder.close()
