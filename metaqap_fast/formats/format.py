"""What a format is: how its files begin, what they say of themselves, and who decodes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from metaqap_fast.errors import ImageError, Status

START = 32  # bytes that a signature is looked for in
# Decoders. WHOLE: Pillow, for a JPEG that may be complete or not.
DALI, PILLOW, WHOLE, TIFF, BMP, PNM = "dali", "pillow", "pillow, whole", "tiff", "bmp", "pnm"
HEIF, CODECS, LINEAR, RAW = "heif", "imagecodecs", "linear", "raw"
GAIN_MAP = "its HDR gain map is ignored"  # a note


@dataclass(slots=True)
class Header:
    """What a file says of itself: all that decides which pixels are scored.

    `width` and `height` are in pixels as stored; `orientation` is the EXIF tag 274 (1 to 8), which is read here alone
    and applied after decoding: a decoder gets a file that it cannot turn. A viewer shows `display_size`.
    """

    width: int
    height: int
    orientation: int = 1
    defect: str = ""  # why the pixels are known to be incomplete or damaged, although the header can be read
    decoder: str = ""  # where a file needs another one than its format's usual decoder
    format: str = ""  # its name; `read_header` fills it in, and names a decoder
    parts: tuple[bytes | memoryview, ...] = ()  # joined, what the decoder gets; none: the file as it is
    icc: bytes = b""  # an ICC profile, the file's or made of what else it says of its colours; not checked here
    depth: int = 8  # bits of a sample, where its decoder does not say; 0 for fractions
    premultiplied: bool = False  # colours were multiplied by their alpha, and the decoder gives them so
    sensor: tuple[int, int] = (0, 0)  # of a RAW file whose preview this is, (width, height); `raw.developed` uses it
    frames: int = 1  # pictures in the file, of which the first is scored; 0: more than one, uncounted
    note: str = ""  # what a reader of the score should know, such as "the first of 3 pictures"

    @property
    def display_size(self) -> tuple[int, int]:
        """(width, height) after the EXIF orientation is applied."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of image file.

    Attributes:
        name: as messages call it.
        matches: whether a file that begins with these `START` bytes is one.
        parse: reads the header and checks the structure of the whole file (bytes [n]), without decoding pixels. It
            raises `ImageError` for a variant that is not supported, and ValueError, IndexError or struct.error for a
            damaged header. None: the format is known and refused.
        extensions: of its files, in lower case; files found in a folder are rows if their name ends in one of these.
        decoder: which of `metaqap_fast.decode.pixels.DECODERS` reads it.
        holds: whether the whole file (bytes [n]) is one, where its start does not tell.
    """

    name: str
    matches: Callable[[bytes], bool]
    parse: Callable[[memoryview], Header] | None = None
    extensions: tuple[str, ...] = ()
    decoder: str = DALI
    holds: Callable[[memoryview], bool] | None = None


def differs(said: Sequence[int], found: Sequence[int]) -> ImageError:
    """The header lied, and a decoder believes the pixels: sizes (width, height) as stored."""
    header, image = ("x".join(map(str, size)) for size in (said, found))
    return ImageError(Status.corrupt, f"the header says {header} pixels, the decoded image has {image}")


def starts(*signatures: bytes) -> Callable[[bytes], bool]:
    """A test for files that begin with one of the signatures."""
    return lambda start: start.startswith(signatures)


def brand(*brands: bytes) -> Callable[[bytes], bool]:
    """A test for ISO media files (HEIF, AVIF) whose major brand is one of these."""
    return lambda start: start[4:8] == b"ftyp" and start[8:12] in brands
