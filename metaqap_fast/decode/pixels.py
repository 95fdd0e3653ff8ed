"""Which decoder reads which format.

DALI decodes and resizes whole batches in one pass. A format that it does not read names another decoder in
`Format.decoder`: a function that turns one file into pixels, which DALI then resizes as it does its own. It runs in
the same supervised process, under the same limits. To add one is to add a file here and an entry of `DECODERS`.
"""

from __future__ import annotations

from collections.abc import Callable

from metaqap_fast.decode import bmp, codecs, heif, pillow, pnm, raw, tiff
from metaqap_fast.formats import Header
from metaqap_fast.formats.format import BMP, CODECS, DALI, HEIF, LINEAR, PILLOW, PNM, RAW, TIFF, WHOLE
from metaqap_fast.records import Pixels

# A file's bytes (its header's `parts`, joined) and its header to pixels [H, W, 3] uint8 RGB of the header's `width` and
# `height`: not turned, not converted by a profile. Heavy libraries are imported inside. `ImageError` says why a file
# cannot be read; any other exception: it is corrupt.
PixelDecoder = Callable[[memoryview, Header], Pixels]

DECODERS: dict[str, PixelDecoder | None] = {
    DALI: None,  # in batches, see `metaqap_fast.decode.dali`
    PILLOW: pillow.decode,
    WHOLE: pillow.decode_whole,
    TIFF: tiff.decode,
    BMP: bmp.decode,
    PNM: pnm.decode,
    HEIF: heif.decode,
    CODECS: codecs.decode,
    LINEAR: codecs.decode_linear,
    RAW: raw.decode,
}
