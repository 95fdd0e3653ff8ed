"""TIFF 6.0 and BigTIFF: the image of the first directory.

A file says in a dozen tags how its bytes are samples and its samples colours. `Layout` is all of them, checked; the
decoder follows it. What a layout cannot express is refused.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats.directory import ORIENTATION, Directory
from metaqap_fast.formats.format import PILLOW, TIFF, Format, Header, starts

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _COLOURS, _FILL = 254, 256, 257, 258, 259, 262, 266
_STRIPS, _SAMPLES, _ROWS, _STRIP_BYTES, _PLANES, _PREDICTOR, _PALETTE = 273, 277, 278, 279, 284, 317, 320
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _INKS, _EXTRA, _FORMAT = 322, 323, 324, 325, 332, 338, 339
_SUBSAMPLING, _ICC = 530, 34675

WHITE_IS_ZERO, GRAY, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
CHANNELS = {WHITE_IS_ZERO: 1, GRAY: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}
_PLAIN, _JPEG = 1, 7
_PACKED = frozenset({_PLAIN, 5, 8, 32773, 32946, 34925, 50000})  # bytes: LZW, deflate, PackBits, LZMA, Zstandard
_FAX = frozenset({2, 3, 4})
_PAGES = 100  # that are counted
_PADDING = 1 << 27  # bytes of tiles beyond the image's edges: a small file can ask for any number of them


@dataclass(frozen=True, slots=True)
class Layout:
    """How an image's bytes are its samples.

    Samples of `bits` bits stand side by side, for each pixel `samples` of them or, in planes, one. Rows begin at whole
    bytes. An image is cut into pieces of `tile` (width, height) pixels, the last of which are larger than the image; a
    strip is one that is as wide as the image.
    """

    endian: str
    width: int
    height: int
    bits: int
    samples: int
    colours: int
    planes: int  # 1: all samples of a pixel together
    compression: int
    differences: bool  # each sample is stored as its difference to the one before
    fill: int  # 2: the first bit of a byte is its lowest
    premultiplied: bool  # the sample behind the colours is an alpha that they were multiplied by
    tile: tuple[int, int]
    tiled: bool
    offsets: tuple[int, ...]
    counts: tuple[int, ...]  # bytes
    palette: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Of a row of one piece."""
        return -(-self.tile[0] * self.bits * (self.samples // self.planes) // 8)

    @property
    def columns(self) -> int:
        """Pieces side by side."""
        return -(-self.width // self.tile[0])

    @property
    def pieces(self) -> int:
        """Of one plane."""
        return self.columns * -(-self.height // self.tile[1])

    @property
    def plain(self) -> bool:
        """Whether the bytes are the samples."""
        return self.compression == _PLAIN and self.colours != YCBCR

    @property
    def channels(self) -> int:
        """Samples of a pixel that are its colours."""
        return CHANNELS[self.colours]


def parse(view: memoryview) -> Header:
    """TIFF: the first directory's image; the others are not scored."""
    tags = Directory(view)
    if tags.get(_SUBFILE, (0,))[0] & 1:
        raise ImageError(Status.unsupported, "TIFF that begins with a thumbnail is not supported")
    found = layout(tags)
    orientation, icc = tags.orientation(), bytes(tags.stored(_ICC)) if _ICC in tags else b""
    decoder, parts = TIFF, tuple[bytes | memoryview, ...]()
    if found.compression not in _PACKED or found.colours == YCBCR:
        decoder, parts = PILLOW, tags.with_first(ORIENTATION, 1) if orientation != 1 else ()
    return Header(
        found.width, found.height, orientation, _defect(len(view), found), decoder,
        parts=parts, icc=icc, frames=_pages(view, tags),
    )  # fmt: skip


def layout(tags: Directory) -> Layout:
    """The tags that decide pixels.

    Raises:
        ImageError: `unsupported`.
        ValueError, struct.error, LookupError: damaged.
    """
    if _WIDTH not in tags or _HEIGHT not in tags:
        raise ValueError("no image size")
    if _COLOURS not in tags:  # viewers guess, each in its own way
        raise ValueError("no colour model")
    width, height = tags[_WIDTH][0], tags[_HEIGHT][0]
    compression, colours = tags.get(_COMPRESSION, (_PLAIN,))[0], tags[_COLOURS][0]
    samples, planes = tags.get(_SAMPLES, (1,))[0], tags.get(_PLANES, (1,))[0]
    bits, predictor, fill = tags.get(_BITS, (1,)), tags.get(_PREDICTOR, (1,))[0], tags.get(_FILL, (1,))[0]
    if width < 1 or height < 1 or samples < 1 or planes not in (1, 2) or fill not in (1, 2):
        raise ValueError(f"{width}x{height} pixels of {samples} samples, planes {planes}, fill order {fill}")
    _refuse(colours not in CHANNELS, f"colour model {colours}")
    _refuse(set(tags.get(_FORMAT, (1,))) - {1, 4} != set(), "samples that are not unsigned")
    _refuse(len(set(bits)) != 1, "samples of several sizes")
    _refuse(not 1 <= bits[0] <= 16, f"{bits[0]}-bit samples")
    channels = CHANNELS[colours]
    if samples < channels:
        raise ValueError(f"{samples} samples a pixel, too few for colour model {colours}")
    _refuse(samples > 64, f"{samples} samples a pixel")
    _refuse(colours == CMYK and tags.get(_INKS, (1,))[0] != 1, "inks other than CMYK")
    packed = compression in _PACKED
    _refuse(not (packed or compression in _FAX or compression == _JPEG), f"compression {compression}")
    _refuse(compression in _FAX and (bits[0], samples) != (1, 1), f"fax compression of {samples} {bits[0]}-bit samples")
    _refuse((compression == _JPEG or colours == YCBCR) and bits[0] != 8, f"{bits[0]}-bit samples in this compression")
    _refuse((compression == _JPEG or colours == YCBCR) and samples > channels, "samples beside the colours")
    subsampled = tags.get(_SUBSAMPLING, (2, 2)) != (1, 1)
    _refuse(colours == YCBCR and packed and planes == 2 and subsampled, "subsampled planes")
    differences = predictor != 1 and packed and compression not in (_PLAIN, 32773)
    _refuse(differences and (predictor != 2 or bits[0] not in (8, 16)), f"predictor {predictor} of {bits[0]} bits")
    tiled = _TILES in tags or _TILE_WIDTH in tags
    rows = min(height, tags.get(_ROWS, (height,))[0])
    tile = (tags[_TILE_WIDTH][0], tags[_TILE_HEIGHT][0]) if tiled else (width, rows)
    # Some writers put the places of tiles into the tags of strips.
    places, sizes = [_TILES, _STRIPS][not tiled :], [_TILE_BYTES, _STRIP_BYTES][not tiled :]
    if min(tile) < 1 or max(tile) > 1 << 24:
        raise ValueError(f"pieces of {tile[0]}x{tile[1]} pixels")
    stated = next((tags[tag] for tag in sizes if tag in tags), ())
    image = Layout(
        endian=tags.endian,
        width=width,
        height=height,
        bits=bits[0],
        samples=samples,
        colours=colours,
        planes=samples if planes == 2 else 1,
        compression=compression,
        differences=differences,
        fill=fill,
        premultiplied=samples > channels and tags.get(_EXTRA, (0,))[0] == 1,
        tile=tile,
        tiled=tiled,
        offsets=next((tags[tag] for tag in places if tag in tags), ()),
        counts=(),
        palette=tags.get(_PALETTE, ()) if colours == PALETTE else (),
    )
    unpacked = image.pieces * tile[1] * image.row_bytes * image.planes
    if unpacked > 2 * width * height * samples * -(-bits[0] // 8) + _PADDING:
        raise ValueError(f"tiles of {tile[0]}x{tile[1]} pixels for an image of {width}x{height}")
    return replace(image, counts=_counts(image, stated, tags.nbytes))


def _refuse(found: bool, what: str) -> None:
    if found:
        raise ImageError(Status.unsupported, f"TIFF with {what} is not supported")


def _counts(image: Layout, stated: tuple[int, ...], nbytes: int) -> tuple[int, ...]:
    """Bytes of each piece. Writers leave them out, or say too much, where they follow from something else."""
    pieces = image.pieces * image.planes
    if image.plain and len(image.offsets) >= pieces:
        whole = (_rows(image, number) * image.row_bytes for number in range(pieces))
        return tuple(map(min, stated, whole)) if stated else tuple(whole)
    if not any(stated) and len(image.offsets) == pieces == 1:
        return (nbytes - image.offsets[0],)
    return stated


def _rows(image: Layout, number: int) -> int:
    """Of a piece: the last strip ends with the image, a tile is always whole."""
    if image.tiled:
        return image.tile[1]
    return min(image.tile[1], image.height - number % image.pieces * image.tile[1])


def _defect(nbytes: int, image: Layout) -> str:
    pieces = image.pieces * image.planes
    found = min(len(image.offsets), len(image.counts))
    if found < pieces:
        return f"{found} strips or tiles, {pieces} are needed"
    end = max(at + count for at, count in zip(image.offsets[:pieces], image.counts[:pieces], strict=True))
    if end > nbytes:
        return f"truncated, {nbytes} of {end} bytes"
    for number, count in enumerate(image.counts[:pieces]):
        if count < (_rows(image, number) * image.row_bytes if image.plain else 1):
            return f"strip or tile {number} has {count} bytes, which cannot hold it"
    if image.colours == PALETTE and len(image.palette) < 3 << image.bits:
        return f"a palette of {len(image.palette)} numbers for {image.bits} bits"
    return ""


def _pages(view: memoryview, tags: Directory) -> int:
    """Pictures in the file, without reduced copies; 0: many. What is damaged behind the first counts for none."""
    seen, count = {tags.at}, 1
    try:
        while tags.next and tags.next not in seen:
            if len(seen) == _PAGES:
                return 0
            seen.add(tags.next)
            tags = Directory(view, tags.next)
            count += _WIDTH in tags and not tags.get(_SUBFILE, (0,))[0] & 1
    except (struct.error, LookupError, ValueError):
        pass
    return count


FORMAT = Format("TIFF", starts(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), parse, (".tif", ".tiff", ".btf"))
