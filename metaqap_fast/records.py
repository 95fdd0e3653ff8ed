"""The forms that one image takes on its way: Entry, Encoded, Decoded, Scored, Row."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from hashlib import blake2b
from math import nan
from typing import Annotated, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.errors import ImageError, Status

Pixels = NDArray[np.uint8]
_NO_VIEWS: Pixels = np.empty((0, 0, 0, 3), np.uint8)


@dataclass(frozen=True, slots=True)
class Stamp:
    """What was seen of an image without reading it: if it is the same another time, so is the image.

    size: in bytes, -1 where that is not known. version: a modification time in nanoseconds, an etag or a checksum;
    empty where there is none.
    """

    size: int = -1
    version: str = ""

    def __bool__(self) -> bool:
        """Whether anything is known."""
        return self.size != -1 or self.version != ""

    @property
    def code(self) -> int:
        """64 bits to store in its place; 0 where nothing is known."""
        digest = blake2b(b"%d %s" % (self.size, self.version.encode()), digest_size=8).digest()
        return max(1, int.from_bytes(digest, "little")) if self else 0


class Entry(Protocol):
    """One image to score: its key, and how its bytes are had."""

    @property
    def key(self) -> bytes:
        """What the data set calls it; not always UTF-8."""

    @property
    def distant(self) -> bool:
        """Whether to read it is to wait for a network, so that many are read at once."""

    @property
    def kept(self) -> int:
        """Bytes that are best read soon after it was listed: they pass by once, or come over a network."""

    def stamp(self) -> Stamp:
        """What the listing saw of it; of a file, what a look at it shows now. Never raises."""

    def read(self, max_bytes: int, ahead_bytes: int) -> bytes | memoryview | None:
        """All its bytes. Several threads read, each another entry.

        Args:
            max_bytes: more are an error.
            ahead_bytes: with more, None: held until its turn, the image would fill the memory. It is asked for again
                then, with `ahead_bytes` equal to `max_bytes`.

        Raises:
            ImageError: why not.
            OSError, ValueError: it is `unreadable`, for this reason.
        """


def asked(entry: Entry, ahead_bytes: int) -> Future[bytes] | None:
    """An entry's bytes on their way, where no thread needs to wait for them: the entry has `ask` then.

    None: `Entry.read` has them; it also has them if the future fails, or knows why not.
    """
    ask = getattr(entry, "ask", None)
    found: Future[bytes] | None = ask(ahead_bytes) if ask else None
    return found


def local_path(entry: Entry) -> bytes | None:
    """The path of an entry that is a whole file on a disk, so that it can be read together with others."""
    found: bytes | None = getattr(entry, "local_path", None)
    return found


def told(entry: Entry, stamp: Stamp) -> None:
    """Tell an entry that was read by its `local_path` what the file was just before, if it has `told` to hear it."""
    tell = getattr(entry, "told", None)
    if tell:
        tell(stamp)


@dataclass(frozen=True, slots=True)
class Encoded:
    """An image's bytes, or why there are none."""

    key: bytes
    data: bytes | memoryview
    error: ImageError | None = None


@dataclass(frozen=True, slots=True)
class LaneBatch:
    """What a GPU's decoder made at once: `pixels`, a torch tensor [K, S, S, 3] uint8 there; `side` is S.

    `ready` is the CUDA event behind which they are complete: another stream waits for it before it reads them.
    """

    pixels: Any
    ready: Any
    side: int  # not asked of torch for every image


@dataclass(frozen=True, slots=True)
class DeviceViews:
    """One image's views on a GPU: rows `start` to `stop` of a batch."""

    batch: LaneBatch
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def nbytes(self) -> int:
        """Of its pixels."""
        return 3 * self.batch.side**2 * len(self)

    def array(self) -> Pixels:
        """The pixels on the host; waits for them."""
        if self.batch.ready is not None:
            self.batch.ready.synchronize()
        return np.asarray(self.batch.pixels[self.start : self.stop].cpu())


@dataclass(frozen=True, slots=True)
class Details:
    """What a camera wrote into a file: fields of `Row` of the same names. Empty and NaN where it did not."""

    date: str = ""
    camera: str = ""
    lens: str = ""
    exposure: float = nan
    aperture: float = nan
    iso: float = nan
    focal_length: float = nan


@dataclass(frozen=True, slots=True)
class Decoded:
    """One image as views, or why there are none."""

    key: bytes
    nbytes: int  # of the file
    result: Pixels | ImageError  # views [N, S, S, 3] uint8, N >= 1; `DeviceViews` from a GPU's decoder
    width: int = 0  # as displayed, in pixels
    height: int = 0
    note: str = ""  # what a reader of its score should know
    hash: int = 0  # see `Row.hash`
    details: Details | None = None  # where they are asked for
    fine: bool = False  # the last view is a fine one, see `metaqap_fast.decode.views`

    @property
    def views(self) -> Pixels:
        """[N, S, S, 3] uint8; N is 0 exactly where `error` says why."""
        return _NO_VIEWS if isinstance(self.result, ImageError) else self.result

    @property
    def error(self) -> ImageError | None:
        """Why there are no views."""
        return self.result if isinstance(self.result, ImageError) else None


@dataclass(frozen=True, slots=True)
class Scored:
    """One image's members [M] (the mean over its views), score and uncertainty, and reasons [R]; NaN without views.

    `finite`: whether all members are numbers. `worst`: the place of the largest reason that is named, -1 if none is.
    """

    members: NDArray[np.float32]
    score: float
    uncertainty: float
    reasons: NDArray[np.float32]
    finite: bool
    worst: int


@dataclass(frozen=True, slots=True)
class Stored:
    """How a field of `Row` is stored: numpy's dtype of its numbers, its name in files and exports if it is another
    than the field's, what is written beside the column in a file, whether exports have it, and the root attribute
    without which there is nothing to store."""

    dtype: str = ""
    name: str = ""
    range: str = ""
    meaning: str = ""
    exported: bool = True
    needs: str = ""


HASH = "pHash, 64 bits: few differ between images that look alike; 0 where there is none, as for failed images"
SEEN = "a digest of the file's size and modification time, or of its entity tag; 0 where they are not known"


@dataclass(frozen=True, slots=True)
class Row:
    """One image's result. Each field is a column of every table, file and export: see scores/schema.py."""

    key: Annotated[bytes, Stored(name="path")]
    score: Annotated[float, Stored("f4", range="0 worst to 1 best, NaN where status is not ok")]
    uncertainty: Annotated[float, Stored("f4", meaning="one standard deviation, in the units of the score")]
    members: Annotated[NDArray[np.float32], Stored("f4")]  # [M]
    status: Annotated[Status, Stored("u1")]
    error: Annotated[str, Stored()]
    width: Annotated[int, Stored("u4")]  # as displayed, in pixels
    height: Annotated[int, Stored("u4")]
    nbytes: Annotated[int, Stored("u8", name="bytes")]
    note: Annotated[
        str, Stored(meaning="what a reader of the score should know, such as 'the first of 3 pictures'")
    ] = ""
    seen: Annotated[int, Stored("u8", meaning=SEEN, exported=False)] = 0  # what a later run compares
    reason: Annotated[str, Stored(meaning="the worst of the reasons from 0.25 on, if any is", needs="reasons")] = ""
    reasons: Annotated[NDArray[np.float32], Stored("f4", range="0 none to 1 worst", needs="reasons")] = field(
        default_factory=lambda: np.array(np.nan, np.float32)
    )
    hash: Annotated[int, Stored("u8", meaning=HASH)] = 0  # decode/phash.py
    date: Annotated[str, Stored(meaning="when it was taken, by the camera's clock", needs="exif")] = ""
    camera: Annotated[str, Stored(needs="exif")] = ""
    lens: Annotated[str, Stored(needs="exif")] = ""
    exposure: Annotated[float, Stored("f4", meaning="seconds", needs="exif")] = nan
    aperture: Annotated[float, Stored("f4", meaning="the f-number", needs="exif")] = nan
    iso: Annotated[float, Stored("f4", needs="exif")] = nan
    focal_length: Annotated[float, Stored("f4", meaning="millimetres", needs="exif")] = nan


class Past(NamedTuple):
    """What a row that is there already counts for: see `Totals.forget`."""

    key: str  # bytes that are not UTF-8 by surrogateescape, as JSON can hold them
    status: int
    score: float
    reason: str


def key_order(key: bytes) -> bytes:
    """Sort key of an image key: compares as the list of its path components does, in a third of the memory."""
    return key.replace(b"/", b"\0")
