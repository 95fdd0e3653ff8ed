"""Where the images of a score file are now."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.input import open_sources
from metaqap_fast.input.folders import File
from metaqap_fast.input.places import absolute, address_of, is_url, url
from metaqap_fast.records import Entry
from metaqap_fast.streams import counted


@dataclass(frozen=True, slots=True)
class Place:
    """Where an image should be, and why it cannot be used there; `why` is empty if it is a file that can.

    archive: the file that holds it, empty if it is one of its own.
    """

    path: bytes
    why: str = ""
    archive: bytes = b""


GONE = "not there any more"


@dataclass(slots=True)
class LeftOut:
    """Images that cannot be used: how many by why, and the key of the first of each."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, bytes] = field(default_factory=dict)

    def add(self, why: str, key: bytes) -> None:
        """Count one."""
        self.counts[why] += 1
        self.first.setdefault(why, key)

    def lines(self) -> Iterator[str]:
        """A line for each why."""
        for why, count in self.counts.items():
            hint = "; if their folder was moved, give --images FOLDER" if why == GONE else ""
            yield f"{counted(count, 'image')} left out: {why} ({os.fsdecode(self.first[why])}){hint}"


class Images:
    """Finds images by their keys.

    Args:
        attributes: root attributes of the score file.
        root: folder that the keys are relative to now. None: the one that the file names.

    Raises:
        UsageError: no such folder, or none is known.
    """

    def __init__(self, attributes: Mapping[str, Any], root: str | os.PathLike[str] | None = None) -> None:
        if root is not None:
            self.root: bytes | None = absolute(os.fsencode(root))
            if not os.path.isdir(self.root):
                raise UsageError(f"no such folder: {os.fspath(root)}")
        elif "root" in attributes:
            self.root = address_of(str(attributes["root"]))
        else:
            raise UsageError(
                "the score file does not say which folder its images are in (an older version wrote it): "
                "give --images FOLDER"
            )

    def place(self, key: bytes, seen: int = 0) -> Place:
        """Where the image of a key is; `seen` is what its row says of the file, 0 if nothing."""
        if key.startswith(b"/") or is_url(key):
            path = key
        elif self.root is None or b".." in key.split(b"/"):
            return Place(key, "its name is not a path in the folder of the images")
        else:
            path = self.root + b"/" + key
        if is_url(path):
            return Place(path, "not on this machine")
        try:
            mode = os.stat(path).st_mode
        except (OSError, ValueError):
            archive = _file_above(path)
            return Place(path, "inside an archive", archive) if archive else Place(path, GONE)
        if not stat.S_ISREG(mode):
            return Place(path, "not a file")
        if seen and File(key, path).stamp().code != seen:
            return Place(path, "changed since it was scored")
        return Place(path)

    def entries(self, keys: Iterable[bytes]) -> Iterator[Entry]:
        """Those of the images that can be read, in any order; members of archives too."""
        archives: dict[bytes, set[bytes]] = {}
        for key in keys:
            place = self.place(key)
            if not place.why:
                yield File(key, place.path)
            elif place.archive:
                archives.setdefault(place.archive, set()).add(key)
        for archive, wanted in archives.items():
            try:
                for entry in open_sources([os.fsdecode(archive)], url(self.root)):
                    if entry.key in wanted:
                        wanted.discard(entry.key)
                        yield entry
                    if not wanted:
                        break
            except MetaqapError:
                continue


def _file_above(path: bytes) -> bytes:
    """The file that a path leads into, as if it were a folder; empty without one."""
    while (path := os.path.dirname(path)) not in (b"/", b""):
        if os.path.exists(path):
            return b"" if os.path.isdir(path) else path
    return b""


def from_here(path: bytes) -> bytes:
    """A path as short as it can be written in this folder."""
    here = os.getcwdb().rstrip(b"/") + b"/"
    return path[len(here) :] if path.startswith(here) and len(path) > len(here) else path
