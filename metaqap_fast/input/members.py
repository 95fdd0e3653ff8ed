"""What archives and tables have in common: which members are rows, their keys, and what is wrong with an archive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.errors import ImageError, MetaqapError, Status
from metaqap_fast.formats import EXTENSIONS, FORMATS
from metaqap_fast.formats.format import START
from metaqap_fast.input.data import Data
from metaqap_fast.input.source import extension, left_out
from metaqap_fast.records import Entry, Stamp


class Damaged(Exception):
    """An archive cannot be read, or no further; what was found in it before stays."""


class NoImages(Exception):
    """A table that holds no images, such as the captions beside a shard."""


@dataclass(frozen=True, slots=True)
class Options:
    """How tables are read: the column of the images and the column of their keys, empty for what is found."""

    image: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file that holds many images: an archive or a table.

    Attributes:
        name: as messages call it.
        extensions: what such a file's name ends in, in lower case.
        members: its images, from its data, what makes their keys, and how tables are read. It raises `Damaged` if it
            cannot go on, behind what could be read, and `NoImages` if it finds that there cannot be any.
    """

    name: str
    extensions: tuple[bytes, ...]
    members: Callable[[Data, Names, Options], Iterator[Entry]]


class Names:
    """Keys of the members of one archive, each another one.

    Args:
        archive: its key.
        counts: of what is left out, by its kind.
    """

    def __init__(self, archive: bytes, counts: Counter[str]) -> None:
        self._prefix, self._counts = archive + b"/", counts
        self._seen = _Digests()
        self._folder, self._why = b"", ""

    def take(self, name: bytes, start: Callable[[], bytes]) -> bytes | None:
        """The key of a member; None if it is no row: neither named as an image nor one by its first bytes.

        The second member of a name has `#2` behind it, the third `#3`.
        """
        folder, _, last = name.rpartition(b"/")
        if folder != self._folder:
            self._folder = folder
            self._why = next((why for part in folder.split(b"/") if (why := left_out(part, True))), "")
        if why := self._why or left_out(last, False):
            self.leave(why)
            return None
        if extension(last) not in EXTENSIONS and not is_image(start()):
            self.leave("member that is not an image")
            return None
        return self.key(name)

    def key(self, name: bytes) -> bytes:
        """The key of a member that is a row."""
        key = self._prefix + name.removeprefix(b"./")
        number, found = 2, key
        while not self._seen.add(found):
            found = key + b"#%d" % number
            number += 1
        return found

    def leave(self, why: str) -> None:
        """Count a member that is left out."""
        self._counts[why] += 1


def is_image(start: bytes) -> bool:
    """Whether a file begins as one of `FORMATS` does; text does not, even if it begins with BM or P3."""
    start = start[:START]
    if not start or all(32 <= byte < 127 or byte in b"\t\n\r" for byte in start):
        return False
    return any(each.matches(start) for each in FORMATS)


@dataclass(frozen=True, slots=True)
class Member:
    """An `Entry`: some bytes of an archive."""

    key: bytes
    data: Data
    offset: int
    size: int

    @property
    def distant(self) -> bool:
        """See `Entry.distant`."""
        return self.data.distant

    @property
    def kept(self) -> int:
        """See `Entry.kept`."""
        return self.size if self.data.passing else 0

    def stamp(self) -> Stamp:
        """Its size, and the version of the archive: nothing else in a tar says whether bytes are the same."""
        return Stamp(self.size, self.data.stamp().version)

    def read(self, max_bytes: int, ahead_bytes: int) -> bytes | None:
        """See `Entry.read`."""
        check_size(self.size, max_bytes)
        if self.size > ahead_bytes:
            return None
        found = self.data.read(self.offset, self.size)
        if len(found) < self.size:
            raise ImageError(Status.unreadable, f"the archive ends within it: {len(found)} of {self.size} bytes")
        return found


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive or a table that was found, not opened yet. `named`: by the user, not found in a folder."""

    key: bytes
    kind: Kind
    open: Callable[[], Data]
    named: bool
    distant: bool = False

    def entries(self, options: Options, counts: Counter[str]) -> Iterator[Entry]:
        """Its images. If it cannot be read, or no further, a row with its own key that says why."""
        try:
            yield from self.kind.members(self.open(), Names(self.key, counts), options)
        except NoImages as error:
            if self.named:
                yield Broken(self.key, str(error))
            else:
                counts["table without images"] += 1
        except MetaqapError:
            raise
        except ImageError as error:
            yield Broken(self.key, error.reason)
        except Exception as error:  # noqa: BLE001 -- of whatever library reads it; the run goes on with the next
            reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
            yield Broken(self.key, f"{self.kind.name}: {reason or type(error).__name__}")


@dataclass(frozen=True, slots=True)
class Broken:
    """An `Entry` that cannot be read: an archive or a member of one."""

    key: bytes
    reason: str
    distant = False
    kept = 0

    def stamp(self) -> Stamp:
        """Nothing is known of it, so that it is tried again."""
        return Stamp()

    def read(self, max_bytes: int, ahead_bytes: int) -> bytes | None:
        """See `Entry.read`."""
        raise ImageError(Status.unreadable, self.reason)


def check_size(size: int, max_bytes: int) -> None:
    """Raises `ImageError` for more than `max_bytes`."""
    if size > max_bytes:
        raise ImageError(Status.too_large, f"{size} bytes, over the limit of {max_bytes}")


class _Digests:
    """A set of texts that grows, by 64-bit digests: of ten million, 80 MB."""

    RUN = 1 << 16

    def __init__(self) -> None:
        self._few: set[int] = set()
        self._runs: list[NDArray[np.uint64]] = []  # sorted, each at most half as long as the one before

    def add(self, text: bytes) -> bool:
        """Whether it was new."""
        digest = int.from_bytes(blake2b(text, digest_size=8).digest(), "little")
        if digest in self._few:
            return False
        for run in self._runs:
            at = int(run.searchsorted(np.uint64(digest)))
            if at < len(run) and int(run[at]) == digest:
                return False
        self._few.add(digest)
        if len(self._few) >= self.RUN:
            run = np.fromiter(self._few, np.uint64, len(self._few))
            self._few.clear()
            while self._runs and len(self._runs[-1]) <= 2 * len(run):
                run = np.concatenate([self._runs.pop(), run])
            self._runs.append(np.sort(run))
        return True
