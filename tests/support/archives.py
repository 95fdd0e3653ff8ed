"""Archives and tables of made-up images, and what a source gives of them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from metaqap_fast.errors import Status
from metaqap_fast.input import open_sources
from metaqap_fast.input.reading import read_all
from metaqap_fast.scores.table import ScoreTable

JPEG = b"\xff\xd8\xff\xe0"
FILES = {f"{i % 3}/{i:03d}.jpg": JPEG + bytes([i]) * (i * 97 % 3000) for i in range(60)}


def as_tar(files: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def as_zip(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


KINDS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "a.tar": as_tar,
    "gnu.tar": lambda files: as_tar(files, tarfile.GNU_FORMAT),
    "ustar.TAR": lambda files: as_tar(files, tarfile.USTAR_FORMAT),
    "a.tar.gz": lambda files: gzip.compress(as_tar(files)),
    "a.tgz": lambda files: gzip.compress(as_tar(files)),
    "a.tar.bz2": lambda files: bz2.compress(as_tar(files)),
    "a.tar.xz": lambda files: lzma.compress(as_tar(files), preset=0),
    "a.zip": as_zip,
    "stored.zip": lambda files: as_zip(files, zipfile.ZIP_STORED),
    "bz2.zip": lambda files: as_zip(files, zipfile.ZIP_BZIP2),
    "prefix.zip": lambda files: b"#!/bin/sh\n" * 9 + as_zip(files),
}


def rows(path: Path, **limits: int) -> dict[str, bytes | str]:
    """Key without the archive's name -> bytes, or why there are none; read twice, ahead and from a list."""
    source = open_sources([path])
    found: list[dict[str, bytes | str]] = []
    for entries in (source, list(source)):
        read = list(read_all(entries, **limits))
        values = [each.error.reason if each.error else bytes(each.data) for each in read]
        found.append(dict(zip((each.key.decode(errors="backslashreplace") for each in read), values, strict=True)))
        assert len(found[-1]) == len(read)
        assert all(each.error is None or each.error.status != Status.corrupt for each in read)
    assert found[0] == found[1]
    return {key.removeprefix(path.name).removeprefix("/"): value for key, value in found[0].items()}


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def as_parquet(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"name": list(files), "image": list(files.values())}), out, row_group_size=7)
    return out.getvalue()


# What tests put behind a URL.
STORED = {
    **{f"photos/{name}": content for name, content in FILES.items()},
    **{"photos/.git/1.jpg": JPEG, "photos/._1.jpg": JPEG, "photos/notes.txt": b"x"},
    "shards/a.tar": as_tar(FILES),
    "shards/b.zip": as_zip(FILES),
    "shards/c.parquet": as_parquet(FILES),
    "shards/d.tgz": gzip.compress(as_tar(FILES)),
    "list.txt": b"memory://data/photos/0/000.jpg\nmemory://data/shards/a.tar\nmemory://data/photos/gone.jpg\n",
}


def found(*sources: str, **options: str) -> dict[str, bytes | str]:
    """Key -> bytes, or why there are none."""
    read = list(read_all(open_sources(sources, **options)))
    values = {each.key.decode(): each.error.reason if each.error else bytes(each.data) for each in read}
    assert len(values) == len(read)
    return values


def scored_alike(
    cli: Callable[..., Any], sources: Iterable[Any], model: Path, work: Path, names: Iterable[str]
) -> None:
    """Sources that hold the same images under the same names give the same scores, to the bit."""
    tables, expected = [], [name.encode() for name in names]
    for source in sources:
        out = work / f"{len(tables)}.h5"
        key = ("--key", "name") if str(source).endswith("parquet") else ()
        result = cli("score", source, *key, "--model", model, "-o", out, "--quiet")
        assert result.exit_code == 0, result.output
        tables.append(ScoreTable.read(out))
    for table in tables:
        assert [key.rpartition(b"/")[2] for key in table.keys] == expected
        assert table.ok.all() and table.score.tobytes() == tables[0].score.tobytes()
