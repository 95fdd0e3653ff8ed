"""Where images come from: sources become sorted keys, and keys become bytes.

A kind of source is a file in this folder and an entry of `KINDS`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from metaqap_fast.errors import UsageError
from metaqap_fast.input import files
from metaqap_fast.input.source import Kind, Merged, Source

__all__ = ["KINDS", "Kind", "Source", "open_sources"]

# The first that takes a name opens it. Files take whatever is left.
KINDS: tuple[Kind, ...] = (files.KIND,)


def open_sources(sources: Sequence[str | os.PathLike[str]]) -> Source:
    """What a user has named, as one source; kinds may be mixed.

    Raises:
        UsageError: no source, or one that does not exist or cannot be read.
    """
    if not sources:
        raise UsageError("no source given: name a folder, image files, a glob or @list.txt")
    names: dict[Kind, list[str]] = {}
    for name in map(os.fsdecode, sources):
        kind = next(kind for kind in KINDS if kind.takes(name))
        names.setdefault(kind, []).append(name)
    opened = [kind.open(some, len(sources) == 1) for kind, some in names.items()]
    return opened[0] if len(opened) == 1 else Merged(opened)
