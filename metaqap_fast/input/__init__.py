"""Where images come from: sources become sorted keys, and keys become bytes.

A kind of archive or table is a file in this folder and an entry of `KINDS` in kinds.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from metaqap_fast.errors import UsageError, kind
from metaqap_fast.input.files import Listing
from metaqap_fast.input.members import Options
from metaqap_fast.input.memory import decoded
from metaqap_fast.input.source import Source

__all__ = ["Source", "named", "open_sources"]


def open_sources(
    sources: Sequence[str | os.PathLike[str]], root: str | None = None, *, image: str = "", key: str = ""
) -> Listing:
    """What a user has named, as one source; kinds may be mixed.

    Args:
        sources: folders, files, archives, tables, globs, braces and lists.
        root: URL of the folder that keys are relative to, as `Source.root` gave it for an earlier run: keys then stay
            what they were when other sources come to the same folder. None: the deepest that holds all sources.
        image: column of the images in tables; empty for the only one that holds bytes.
        key: column of the keys in tables; empty for the number of the row.

    Raises:
        UsageError: no source, or one that does not exist or cannot be read.
    """
    if not sources:
        raise UsageError("no source given: name a folder, image files, archives, a glob or @list.txt")
    return Listing(sources, root, Options(image, key))


def named(sources: Iterable[Any]) -> list[str | os.PathLike[str]]:
    """Sources that a caller gave one by one or in lists, for `open_sources`.

    Raises:
        UsageError: something that is no name.
    """
    found: list[Any] = []
    for source in sources:
        one = isinstance(source, (str, bytes, os.PathLike)) or not isinstance(source, Iterable)
        found.extend([source] if one or decoded(source) or hasattr(source, "read") else source)
    for source in found:
        if not isinstance(source, (str, bytes, os.PathLike)):
            hint = ": for decoded images use score_arrays" if decoded(source) else ""
            raise UsageError(f"a source is {kind(source)}, not the name of a folder or file{hint}")
        if not os.fspath(source):
            raise UsageError("a source is an empty name")
        if isinstance(source, bytes) and b"\0" in source:
            raise UsageError("a source is bytes that name no file: for encoded images use score_bytes")
    return found
