"""Sources that are URLs, by fsspec: buckets (s3, gs), Hugging Face, web servers and whatever else fsspec knows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.formats import EXTENSIONS
from metaqap_fast.input.distant import Place, RemoteFile
from metaqap_fast.input.fetch import about, again, fetch, file_system, line, name_of, pool
from metaqap_fast.input.kinds import kind_of
from metaqap_fast.input.lists import TEXTS, read_list
from metaqap_fast.input.members import Archive
from metaqap_fast.input.objects import head, is_s3
from metaqap_fast.input.places import key_of
from metaqap_fast.input.remote_walk import RemoteWalk, page_of
from metaqap_fast.input.source import extension, junk, walked_from
from metaqap_fast.records import key_order


def places(url: str) -> list[Place]:
    """What a user has named by a URL: a file, a folder, or what a pattern matches.

    Raises:
        UsageError: nothing is there, or it may not be read.
    """
    files, path = file_system(url)
    try:
        if _is_pattern(url):
            found = again(files, partial(files.glob, path, detail=True))
            if not found:
                raise UsageError(f"no file matches {name_of(url)}")
            return [Place(files, name, info) for name, info in sorted(found.items()) if not _junk(name, path)]
        if url.lower().startswith("http") and url.endswith("/"):
            return [Place(files, path, {"type": "directory"})]
        return [_place(files, path)]
    except FileNotFoundError:
        raise UsageError(f"nothing is there: {name_of(url)}") from None
    except PermissionError as error:
        why = f"no permission to read {name_of(url)}: {line(error)}; credentials are those of the environment"
        raise UsageError(why) from None
    except OSError as error:
        raise MetaqapError(f"cannot read {name_of(url)}: {line(error)}") from None


def _place(files: Any, path: str) -> Place:
    """What is there. What may be a folder of a bucket is listed while it is asked whether it is an object."""
    name = path.encode(errors="surrogateescape")
    if not is_s3(files) or files.version_aware or extension(name) in EXTENSIONS or kind_of(name) is not None:
        return Place(files, path, again(files, partial(files.info, path)))
    folder = Place(files, path, {"type": "directory"})
    coming = pool().submit(page_of, folder)
    if "/" in path:
        with suppress(FileNotFoundError):
            return Place(files, path, again(files, partial(head, files, path)))
        if not coming.result()[0]:
            raise FileNotFoundError
    coming.result()
    return replace(folder, first=coming)


def _junk(match: str, pattern: str) -> bool:
    return junk(match.encode(errors="surrogateescape"), pattern.encode(errors="surrogateescape"))


def _is_pattern(url: str) -> bool:
    magic = "*[" if url.lower().startswith("http") else "*?["  # a question mark begins a query
    return any(letter in url for letter in magic)


class Remote:
    """All sources that are URLs: `named` one by one, or `listed` in lists, which are looked at only to be read."""

    def __init__(self) -> None:
        self.named: list[str] = []
        self.listed: list[bytes] = []
        self._places: list[Place] = []

    def read_list(self, name: str) -> Iterator[bytes]:
        """The names in a list that is behind a URL. Raises `UsageError` if it cannot be read."""
        (place,) = places(name)
        try:
            return read_list(name_of(name), fetch(place.files, place.path, 0, about(place.info)[0]))
        except OSError as error:
            raise UsageError(f"cannot read the list {name_of(name)}: {line(error)}") from None

    def bases(self) -> list[bytes]:
        """Folders that the root must hold: looks for everything that is named.

        Raises:
            UsageError: it is not there, or may not be read.
        """
        bases = []
        for name, found in zip(self.named, pool().map(places, self.named) if self.named else (), strict=True):
            self._places += found
            if _is_pattern(name):
                files, path = file_system(name)
                bases.append(Place(files, re.split(r"[*?\[]", path)[0] + "x", {}).address.rpartition(b"/")[0])
            elif not found[0].is_folder and extension(found[0].address) in TEXTS:
                shown = name_of(name)
                raise UsageError(f"{shown} is not an image; if it is a list of images, write @{shown}")
            bases += [place.address if place.is_folder else place.address.rpartition(b"/")[0] for place in found]
        self._places += [Place(*file_system(name.decode(errors="surrogateescape")), {}) for name in self.listed]
        bases += [place.address.rpartition(b"/")[0] for place in self._places[len(self._places) - len(self.listed) :]]
        return bases

    def streams(self, root: bytes | None, counts: Counter[str]) -> Iterator[Iterable[RemoteFile | Archive]]:
        """What is found there: streams in the order of their keys."""
        folders = {place.address: place for place in self._places if place.is_folder}
        for address, place in folders.items():
            if not walked_from(address, folders.keys()):
                yield RemoteWalk(place, key_of(address, root), counts)
        files = [place for place in self._places if not place.is_folder]
        keyed = sorted(((key_of(place.address, root), place) for place in files), key=lambda item: key_order(item[0]))
        yield (place.item(key, True) for key, place in keyed)
