"""TIFF: libtiff (in Pillow) unpacks the bytes, and what they mean is read by us.

Of the many ways in which bytes are samples and samples colours, each library reads some, and some of them wrongly. So
libtiff gets a directory of ours, which says that every byte is a gray pixel: it decompresses, and fails where data is
missing. `formats.tiff.Layout` says what the bytes are.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.decode import pillow
from metaqap_fast.decode.colour import colours
from metaqap_fast.formats import Header
from metaqap_fast.formats.directory import Directory
from metaqap_fast.formats.tiff import CMYK, PALETTE, RGB, WHITE_IS_ZERO, Layout, layout
from metaqap_fast.records import Pixels

_ROWS = 64  # unpacked at once, where samples are no whole bytes


def decode(data: memoryview, header: Header) -> Pixels:
    """See `PixelDecoder`: pixels [H, W, 3] uint8 RGB of the first directory's image."""
    image = layout(Directory(data))
    wanted = image.channels + image.premultiplied
    planes = range(min(wanted, image.planes))
    parts = [_samples(_unpacked(data, header, image, plane), image) for plane in planes]
    samples = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
    samples = samples[:, :, :wanted]
    inks = colours(header.icc)
    if image.colours == CMYK and inks.mode == "CMYK":
        return inks.apply(_eight_bits(samples[:, :, : image.channels], image.bits))
    return _rgb(samples, image)


def _unpacked(data: memoryview, header: Header, image: Layout, plane: int) -> Pixels:
    """A plane's bytes [H, columns, bytes of a row of a piece]."""
    width = image.columns * image.row_bytes
    file = memoryview(gray_file(data, image, plane))
    return pillow.gray(file, replace(header, width=width)).reshape(image.height, image.columns, image.row_bytes)


def gray_file(data: memoryview, image: Layout, plane: int) -> bytes:
    """The file with another directory, in which each byte of a plane is a gray pixel."""
    pieces = slice(plane * image.pieces, (plane + 1) * image.pieces)
    offsets, counts = image.offsets[pieces], image.counts[pieces]
    tags: dict[int, tuple[int, ...]] = {
        256: (image.columns * image.row_bytes,), 257: (image.height,), 258: (8,), 259: (image.compression,), 262: (1,),
        266: (image.fill,), 277: (1,),
    }  # fmt: skip
    if image.tiled:
        tags |= {322: (image.row_bytes,), 323: (image.tile[1],), 324: offsets, 325: counts}
    else:
        tags |= {273: offsets, 278: (image.tile[1],), 279: counts}
    at = len(data) + len(data) % 2
    entries, values = [], b""
    behind = at + 2 + 12 * len(tags) + 4
    for tag, numbers in sorted(tags.items()):
        stored = struct.pack(f"<{len(numbers)}I", *numbers)
        entries.append(struct.pack("<HHI", tag, 4, len(numbers)))
        entries.append(stored if len(numbers) == 1 else struct.pack("<I", behind + len(values)))
        values += stored if len(numbers) > 1 else b""
    head = struct.pack("<2sHI", b"II", 42, at)
    return b"".join([head, data[8:], bytes(at - len(data)), struct.pack("<H", len(tags)), *entries, bytes(4), values])


def _samples(packed: Pixels, image: Layout) -> NDArray[Any]:
    """[H, columns, bytes] as [H, W, samples of a pixel], uint8 or uint16."""
    height, columns, _ = packed.shape
    each = image.samples // image.planes
    if image.bits == 8:
        samples: NDArray[Any] = packed
    elif image.bits == 16:
        samples = packed.view(image.endian + "u2").astype(np.uint16)
    else:
        weights = 1 << np.arange(image.bits, dtype=np.uint16)[::-1]
        samples = np.empty((height, columns, image.tile[0] * each), np.uint16)
        for row in range(0, height, _ROWS):
            bits = np.unpackbits(packed[row : row + _ROWS], axis=2)[:, :, : samples.shape[2] * image.bits]
            samples[row : row + _ROWS] = bits.reshape(*bits.shape[:2], -1, image.bits) @ weights
    samples = samples.reshape(height, columns, image.tile[0], each)
    if image.differences:
        samples = np.cumsum(samples, axis=2, dtype=samples.dtype)  # which wraps around, as it must
    return samples.reshape(height, -1, each)[:, : image.width]


def _rgb(samples: NDArray[Any], image: Layout) -> Pixels:
    """Colours, and an alpha that they were multiplied by, [H, W, 1 to 5] as RGB."""
    if image.colours == PALETTE:
        palette = np.array(image.palette, np.uint32)[: 3 << image.bits]
        if palette.max() > 255:  # else it holds 8 bits, as libtiff sees too
            palette >>= 8
        coloured: Pixels = palette.astype(np.uint8).reshape(3, -1).T[samples[:, :, 0]]
        return coloured
    samples = _eight_bits(samples, image.bits)
    if image.premultiplied:
        alpha = np.maximum(samples[:, :, -1:], 1).astype(np.uint16)
        samples = np.minimum(samples[:, :, :-1] * np.uint16(255) // alpha, 255).astype(np.uint8)
    if image.colours == WHITE_IS_ZERO:
        samples = 255 - samples
    if image.colours == CMYK:  # ink to light, without a profile
        ink, black = 255 - samples[:, :, :3].astype(np.uint16), 255 - samples[:, :, 3:].astype(np.uint16)
        samples = (ink * black // 255).astype(np.uint8)
    return samples if image.colours in (RGB, CMYK) else np.repeat(samples, 3, axis=2)


def _eight_bits(samples: NDArray[Any], bits: int) -> Pixels:
    """Rounded, as PNG's 16 bits are: the same picture has the same pixels in both."""
    if bits != 8:
        most = (1 << bits) - 1
        return ((samples.astype(np.uint32) * 255 + most // 2) // most).astype(np.uint8)
    return samples
