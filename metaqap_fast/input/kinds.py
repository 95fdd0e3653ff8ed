"""The kinds of files that hold many images; a kind is a file in this folder and an entry of `KINDS`."""

from __future__ import annotations

from metaqap_fast.input import inflate, tables, tar, zipped
from metaqap_fast.input.members import Kind

# The first whose extension a name ends in.
KINDS: tuple[Kind, ...] = (tar.KIND, *inflate.KINDS, zipped.KIND, *tables.KINDS)

_KINDS = {extension: kind for kind in reversed(KINDS) for extension in kind.extensions}
_EXTENSIONS = tuple(_KINDS)


def kind_of(name: bytes) -> Kind | None:
    """What a file is by its name; None for any other than an archive or a table."""
    lower = name[-16:].lower()
    if not lower.endswith(_EXTENSIONS):
        return None
    return next(kind for extension, kind in _KINDS.items() if lower.endswith(extension))
