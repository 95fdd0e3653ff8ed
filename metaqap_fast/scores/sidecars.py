"""A parquet file beside each shard, in the layout of img2dataset: 00000.parquet has the rows of 00000.tar, and its
column `key` says which sample each is of."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.input.kinds import KINDS
from metaqap_fast.input.places import absolute, address_of, braces, common, is_url, key_of
from metaqap_fast.scores.durable import replacing
from metaqap_fast.scores.export import in_pieces, to_arrow
from metaqap_fast.scores.schema import escaped
from metaqap_fast.scores.table import ScoreTable

if TYPE_CHECKING:
    import pyarrow as pa

SHARDS = tuple(extension for kind in KINDS for extension in kind.extensions)
TABLES = (b".parquet", b".pq", b".arrow")
OURS = b"members"  # in the metadata of every parquet file that this program writes


def export_like(
    scores: str | os.PathLike[str], out: str | os.PathLike[str], like: str, overwrite: bool = False
) -> tuple[int, int]:
    """Write a parquet file for each shard that has rows, in bounded memory; each of them atomically.

    Args:
        scores: a score file.
        out: the folder to write to; made if need be. Files lie in it as shards do in `like`.
        like: the folder of the shards, or one shard; or several of either, by braces or wildcards.
        overwrite: replace files of scores that are there; others never are.

    Returns:
        How many files and rows were written.

    Raises:
        UsageError: no row is of such a shard; a file is there already.
        MetaqapError: pyarrow is missing, the score file is damaged, or a file cannot be written.
    """
    files = rows = 0
    with ExitStack() as stack:
        writer: Any = None
        current = b""
        for shard, table in _by_shard(scores, like):
            found = _with_keys(table, shard)
            if shard != current:
                stack.close()
                current, files = shard, files + 1
                writer = stack.enter_context(_writer(Path(out), shard, found.schema, overwrite))
            writer.write_table(found)
            rows += len(table)
    if not files:
        raise UsageError(f"{scores} has no row of a shard in {like}")
    return files, rows


class _writer:
    """Opens the parquet file of a shard; it is in its place when this is left without an error."""

    def __init__(self, out: Path, shard: bytes, schema: pa.Schema, overwrite: bool) -> None:
        self._path = out / (os.fsdecode(_stem(shard)) + ".parquet")
        self._schema, self._overwrite = schema, overwrite
        self._stack = ExitStack()

    def __enter__(self) -> Any:
        import pyarrow.parquet as pq

        if self._path.exists():
            if OURS not in (pq.read_schema(self._path).metadata or {}):
                raise UsageError(f"{self._path} is there and holds no scores of this program: name another folder")
            if not self._overwrite:
                raise UsageError(f"{self._path} exists; give --overwrite or another folder")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MetaqapError(f"cannot write {self._path}: {error.strerror}") from None
        partial = self._stack.enter_context(replacing(self._path))
        return self._stack.enter_context(pq.ParquetWriter(partial, self._schema))

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


def _by_shard(scores: str | os.PathLike[str], like: str) -> Iterator[tuple[bytes, ScoreTable]]:
    """The rows of each shard in `like`, in pieces, one shard after the other, by its path there."""
    place = _places(like)
    for table in in_pieces(scores):
        root = address_of(table.attributes.get("root", ""))
        start, shards = 0, [_shard_of(key, root, place) for key in table.keys]
        for stop in range(1, len(shards) + 1):
            if stop == len(shards) or shards[stop] != shards[start]:
                if shard := shards[start]:
                    yield shard, table[start:stop]
                start = stop


def _places(like: str) -> Callable[[bytes], bytes | None]:
    """Gives the path of a shard, by its address, in what is named; None for those that are not."""
    names = [os.fsencode(name) for name in ([like] if os.path.lexists(like) else braces(like))]
    places = [(name.rstrip(b"/") if is_url(name) else absolute(name)).split(b"/") for name in names]
    plain = [os.path.lexists(like) or not any(map(glob.has_magic, place)) for place in places]
    if len(places) == 1 and plain[0]:
        base: bytes | None = b"/".join(places[0])
    else:
        fixed = (next((n for n, part in enumerate(place) if glob.has_magic(part)), len(place) - 1) for place in places)
        base = common(b"/".join(place[:n]) for place, n in zip(places, fixed, strict=True))

    @cache
    def path(address: bytes) -> bytes | None:
        parts = address.split(b"/")
        for place, exact in zip(places, plain, strict=True):
            here = parts[: len(place)]
            if here == place or (not exact and len(here) == len(place) and all(map(fnmatchcase, here, place))):
                return key_of(address, base) or parts[-1]
        return None

    return path


def _shard_of(key: bytes, root: bytes | None, place: Callable[[bytes], bytes | None]) -> bytes | None:
    """The shard that a key lies in, by its path in what is named; None if it does not."""
    parts = key.split(b"/")
    ends = (n for n, part in enumerate(parts[:-1], 1) if part.lower().endswith(SHARDS))
    if (end := next(ends, None)) is None:
        return None
    shard = b"/".join(parts[:end])
    return place(shard if root is None or shard.startswith(b"/") or is_url(shard) else root + b"/" + shard)


def _stem(shard: bytes) -> bytes:
    ending = next(ending for ending in sorted(SHARDS, key=len, reverse=True) if shard.lower().endswith(ending))
    return shard[: -len(ending)]


def _with_keys(table: ScoreTable, shard: bytes) -> pa.Table:
    import pyarrow as pa

    found = to_arrow(table)
    keys = [_sample(key, shard) for key in table.keys]
    return found.add_column(0, pa.field("key", pa.string()), pa.array(keys, pa.string()))


def _sample(key: bytes, shard: bytes) -> str:
    """What a shard calls the sample of an image: of an archive the member's name up to its first dot."""
    name = shard.rpartition(b"/")[2]
    member = key[key.index(name + b"/") + len(name) + 1 :]
    if not shard.lower().endswith(TABLES):
        folder, slash, file = member.rpartition(b"/")
        member = folder + slash + file.partition(b".")[0]
    return escaped(member)
