"""A parquet file beside each shard, in the layout of img2dataset: 00000.parquet has the rows of 00000.tar, and its
column `key` says which sample each is of."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.input.places import absolute, address_of, inside, is_url, key_of
from metaqap_fast.scores.durable import replacing
from metaqap_fast.scores.export import in_pieces, to_arrow
from metaqap_fast.scores.schema import escaped
from metaqap_fast.scores.table import ScoreTable

if TYPE_CHECKING:
    import pyarrow as pa

ARCHIVES = (b".tar.gz", b".tgz", b".tar", b".zip")
TABLES = (b".parquet",)
OURS = b"members"  # in the metadata of every parquet file that this program writes


def export_like(
    scores: str | os.PathLike[str], out: str | os.PathLike[str], like: str, overwrite: bool = False
) -> tuple[int, int]:
    """Write a parquet file for each shard that has rows, in bounded memory; each of them atomically.

    Args:
        scores: a score file.
        out: the folder to write to; made if need be. Files lie in it as shards do in `like`.
        like: the folder of the shards, or one shard.
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
    name = os.fsencode(like)
    folder = name.rstrip(b"/") if is_url(name) else absolute(name)
    for table in in_pieces(scores):
        root = address_of(table.attributes.get("root", ""))
        start, shards = 0, [_shard_of(key, root, folder) for key in table.keys]
        for stop in range(1, len(shards) + 1):
            if stop == len(shards) or shards[stop] != shards[start]:
                if shard := shards[start]:
                    yield shard, table[start:stop]
                start = stop


def _shard_of(key: bytes, root: bytes | None, folder: bytes) -> bytes | None:
    """The shard that a key lies in, by its path in the folder; None if it does not."""
    parts = key.split(b"/")
    ends = (n for n, part in enumerate(parts[:-1], 1) if part.lower().endswith(ARCHIVES + TABLES))
    if (end := next(ends, None)) is None:
        return None
    shard = b"/".join(parts[:end])
    address = shard if root is None or shard.startswith(b"/") or is_url(shard) else root + b"/" + shard
    if not inside(address, folder):
        return None
    return key_of(address, folder) or parts[end - 1]


def _stem(shard: bytes) -> bytes:
    ending = next(ending for ending in ARCHIVES + TABLES if shard.lower().endswith(ending))
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
