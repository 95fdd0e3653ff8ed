"""Folders behind URLs: walked in the order of their keys, listed ahead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from functools import partial

from metaqap_fast.errors import MetaqapError
from metaqap_fast.formats import EXTENSIONS
from metaqap_fast.input.distant import Page, Place, RemoteFile
from metaqap_fast.input.fetch import SECONDS, again, line, pool
from metaqap_fast.input.kinds import kind_of
from metaqap_fast.input.members import Archive
from metaqap_fast.input.objects import is_s3
from metaqap_fast.input.pages import page, settled
from metaqap_fast.input.source import extension, left_out
from metaqap_fast.records import key_order

FOLDERS_AHEAD = 8  # listed before it is their turn


class RemoteWalk:
    """What is found in a folder behind a URL: images, archives and tables, in the order of their keys."""

    def __init__(self, place: Place, key: bytes, counts: Counter[str]) -> None:
        self._place, self._key, self._counts = place, key, counts

    def __iter__(self) -> Iterator[RemoteFile | Archive]:
        return self._walk(self._place, self._key, self._place.first)

    def _walk(self, folder: Place, prefix: bytes, coming: Future[Page] | None) -> Iterator[RemoteFile | Archive]:
        inside: list[tuple[bytes, Place]] = []  # that may not be the next ones in the order of keys
        last, pages, begun = b"", _pages(folder, coming), False
        while True:
            try:
                infos, token = next(pages)
            except OSError as error:
                if begun or not prefix:
                    where = folder.address.decode(errors="backslashreplace")
                    raise MetaqapError(f"cannot list {where}: {line(error)}") from None
                yield RemoteFile(prefix, folder.files, folder.path, -1, "")  # one failed row: it must not vanish
                return
            begun = True
            for info in infos:
                place = Place(folder.files, info["name"], info)
                name = place.address.rpartition(b"/")[2]
                if place.address == folder.address or not name:  # what stands for the folder itself
                    if place.is_folder and place.path.endswith("/"):  # or the first of two slashes in a row
                        self._counts["folder without a name"] += 1
                    continue
                last = max(last, name + b"/" if place.is_folder else name)
                if why := left_out(name, place.is_folder):
                    self._counts[why] += 1
                elif place.is_folder or extension(name) in EXTENSIONS or kind_of(name) is not None:
                    inside.append((name + b"/" if place.is_folder else name, place))
                else:
                    self._counts["no image extension"] += 1
            inside.sort(key=lambda item: key_order(item[0]))
            ready = next((n for n, (name, _) in enumerate(inside) if token and not settled(name, last)), len(inside))
            for (name, place), listing in _with_listings(inside[:ready]):
                key = prefix + b"/" + name if prefix else name
                if place.is_folder:
                    yield from self._walk(place, key.rstrip(b"/"), listing)
                else:
                    yield place.item(key, False)
            del inside[:ready]
            if not token:
                return


def page_of(folder: Place, token: str = "") -> Page:
    """A page of a folder, the first one if there is no token."""
    files, path = folder.files, folder.path
    if is_s3(files):
        return again(files, partial(page, files, path, token, SECONDS))
    return again(files, partial(files.ls, path, detail=True)), ""


def _pages(folder: Place, coming: Future[Page] | None) -> Iterator[Page]:
    """Each is asked for while the one before it is looked through."""
    coming = coming or pool().submit(page_of, folder)
    while coming is not None:
        infos, token = coming.result()
        coming = pool().submit(page_of, folder, token) if token else None
        yield infos, token


def _with_listings(inside: Iterable[tuple[bytes, Place]]) -> Iterator[tuple[tuple[bytes, Place], Future[Page] | None]]:
    """Each with its first page on the way, if it is a folder."""
    items = list(inside)
    folders = iter([place for _, place in items if place.is_folder])
    coming: list[Future[Page]] = []
    for item in items:
        if not item[1].is_folder:
            yield item, None
            continue
        while len(coming) < FOLDERS_AHEAD and (place := next(folders, None)) is not None:
            coming.append(pool().submit(page_of, place))
        yield item, coming.pop(0)
