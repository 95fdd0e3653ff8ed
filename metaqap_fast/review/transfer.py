"""Chosen images copied, linked or moved to a folder: planned first, never over what is there, and never half done."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.input.places import absolute
from metaqap_fast.review.images import Images, LeftOut, from_here
from metaqap_fast.scores.durable import sync_folder
from metaqap_fast.scores.table import ScoreTable

How = Literal["copy", "link", "move"]
SIDECAR = b".xmp"


@dataclass(slots=True)
class Plan:
    """What is to be done.

    Attributes:
        how: and what is done with each image.
        folder: where to.
        pairs: files, and what they become: images, and the sidecar of each (a.jpg.xmp), without which edits are lost.
        images: how many of them are images.
        left_out: images that cannot be used.
    """

    how: How
    folder: bytes
    pairs: list[tuple[bytes, bytes]] = field(default_factory=list)
    images: int = 0
    left_out: LeftOut = field(default_factory=LeftOut)

    def lines(self) -> list[str]:
        """What would be done, a line for each image."""
        return [f"{os.fsdecode(from_here(one))} -> {os.fsdecode(from_here(two))}" for one, two in self.pairs]


def plan(
    tables: Iterable[ScoreTable], images: Images, how: How, folder: str, kept: Mapping[bytes, bytes] | None = None
) -> Plan:
    """What would become of the chosen images. Their paths below the folder of all images are kept below the new one.

    Args:
        tables: of the images.
        images: where they are.
        how: and
        folder: where to.
        kept: of duplicates, the key of the image that is kept in place of each. A file that this is a link to is not
            moved: nothing would be left.

    Raises:
        UsageError: something of that name is there, or two images would have one name. Nothing has been done then.
    """
    found = Plan(how, absolute(os.fsencode(folder)))
    if os.path.lexists(found.folder) and not os.path.isdir(found.folder):
        raise UsageError(f"{folder} is not a folder")
    targets: set[bytes] = set()
    for table in tables:
        for key, seen in zip(table.keys, table.columns["seen"], strict=True):
            place = images.place(key, int(seen))
            why = place.why
            if how == "move" and not why:
                why = _unmovable(place.path, images, (kept or {}).get(key))
            if why:
                found.left_out.add(why, key)
                continue
            found.images += 1
            for more in (b"", SIDECAR):
                if more and (how == "link" or not os.path.isfile(place.path + more)):
                    continue
                target = os.path.join(found.folder, key.lstrip(b"/") + more)
                if os.path.lexists(target):
                    raise UsageError(f"{os.fsdecode(target)} exists: nothing was done. Choose another folder")
                if target in targets:
                    raise UsageError(f"two images would become {os.fsdecode(target)}: nothing was done")
                targets.add(target)
                found.pairs.append((place.path + more, target))
    return found


def _unmovable(path: bytes, images: Images, kept: bytes | None) -> str:
    if os.path.islink(path):
        return "a link"
    better = images.place(kept).path if kept else b""
    return "its better copy is a link to it" if os.path.islink(better) and os.path.samefile(better, path) else ""


def carry_out(plan: Plan, starting: Callable[[str], object] = lambda _: None) -> None:
    """Do what is planned.

    Args:
        plan: what.
        starting: called with the path of the undo file before the first image is moved.

    Raises:
        MetaqapError: it cannot be done. Copies and links that were made are gone again; of a move, the message names
            the undo file, which brings back those that were moved.
    """
    if not plan.pairs:
        return
    made: list[bytes] = []  # folders and files, to be removed if this fails
    undo, moved = b"", 0
    try:
        _folder(plan.folder, made)
        if plan.how == "move":
            undo = _write_undo(plan)
            starting(os.fsdecode(undo))
        for source, target in plan.pairs:
            _folder(os.path.dirname(target), made)
            DO[plan.how](source, target)
            if undo:
                moved += 1
            else:
                made.append(target)
    except BaseException as error:
        _remove(made if moved or not undo else [*made[:1], undo, *made[1:]])
        if not isinstance(error, OSError):
            raise
        where = f": {os.fsdecode(error.filename)}" if error.filename else ""
        after = f"`sh {_quoted(undo)}` brings back what was moved" if moved else "nothing was done"
        reason = f"cannot {plan.how} to {os.fsdecode(plan.folder)}: {error.strerror}{where}; {after}"
        raise MetaqapError(reason) from None


def _copy(source: bytes, target: bytes) -> None:
    with _reserved(target), _partial(target) as partial:
        shutil.copy2(source, partial)
        os.replace(partial, target)


def _link(source: bytes, target: bytes) -> None:
    os.symlink(source, target)


def _move(source: bytes, target: bytes) -> None:
    with _reserved(target):
        try:
            os.replace(source, target)
            return
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        with _partial(target) as partial:  # another disk
            shutil.copy2(source, partial)
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, target)
            sync_folder_of(target)
    os.unlink(source)


DO = {"copy": _copy, "link": _link, "move": _move}


@contextmanager
def _reserved(path: bytes) -> Iterator[None]:
    """An empty file of this name, which nobody else can make in the meantime; removed again if the work fails."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    try:
        yield
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise


@contextmanager
def _partial(path: bytes) -> Iterator[bytes]:
    """A name beside another one, for what is not whole yet; nothing of it is left."""
    folder, name = os.path.split(path)
    partial = os.path.join(folder, b".%b.%d.tmp" % (name[:200], os.getpid()))
    try:
        yield partial
    finally:
        with suppress(FileNotFoundError):
            os.unlink(partial)


def sync_folder_of(path: bytes) -> None:
    """Make a rename durable."""
    sync_folder(Path(os.fsdecode(os.path.dirname(path))))


def _folder(path: bytes, made: list[bytes]) -> None:
    """Make a folder and those above it, and note which were not there."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for folder in reversed(missing):
        os.mkdir(folder)
        made.append(folder)


def _remove(made: list[bytes]) -> None:
    for path in reversed(made):
        with suppress(OSError):
            if os.path.isdir(path) and not os.path.islink(path):
                os.rmdir(path)  # if it is empty
            else:
                os.unlink(path)


def _write_undo(plan: Plan) -> bytes:
    """A shell script that moves everything back, on disk before anything is moved. It may be run at any time, also
    twice: it moves what is there back to where nothing is."""
    path = os.path.join(plan.folder, time.strftime("undo-%Y%m%d-%H%M%S.sh").encode())
    lines = [b"#!/bin/sh", b"# Moves the images back to where they were.", b"moved=0", b"back() {"]
    lines += [b'    if [ -e "$1" ] && [ ! -e "$2" ]; then']
    lines += [b'        mkdir -p "${2%/*}" && mv -n -- "$1" "$2" && moved=$((moved + 1))', b"    fi", b"}"]
    lines += [b"back %b %b" % (_quoted_bytes(target), _quoted_bytes(source)) for source, target in plan.pairs]
    lines += [b'echo "$moved of %d files moved back"' % len(plan.pairs)]
    with open(path, "xb") as file:
        file.write(b"\n".join(lines) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    sync_folder_of(path)
    return path


def _quoted_bytes(path: bytes) -> bytes:
    return b"'" + path.replace(b"'", b"'\"'\"'") + b"'"


def _quoted(path: bytes) -> str:
    return shlex.quote(os.fsdecode(path))
