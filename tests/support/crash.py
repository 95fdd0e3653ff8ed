"""Runs that are killed at any moment, in numbers: a forked child scores with made-up rows, its parent kills it.

    python tests/support/crash.py FOLDER KILLS SEED [MUTATION [FORM]]

FORM is what the images are in: folder, tar, tar.gz, parquet, or a bucket of moto's server, in tars (s3-tar) or each an
object (s3-objects); members and objects are read, not only listed. It prints one JSON object. Everything but decoding
and inference is the program's own: listing, run, store, merge.
MUTATION takes one protection out, to see that the harness notices.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from metaqap_fast.errors import MetaqapError, Status
from metaqap_fast.input.files import Listing
from metaqap_fast.input.reading import read_all
from metaqap_fast.records import Entry, Row
from metaqap_fast.run import run
from metaqap_fast.scores import merge, parts, store
from metaqap_fast.scores.hdf5 import append_rows, create_scores
from metaqap_fast.scores.table import ScoreTable

IMAGES, PER_PART = 120, 7


class FakeScorer:
    """Rows that depend on nothing but the key; writes down what it was asked for."""

    def __init__(self, log: Path | None = None, pause: float = 0.0003, read: bool = False) -> None:
        self.log, self.pause, self.read = log, pause, read

    def stream(self, entries: Iterable[Entry], trace: Any = None) -> Generator[Row]:
        with open(self.log or os.devnull, "ab", buffering=0) as log:
            for key in self.keys(entries):
                log.write(key + b"\n")
                time.sleep(self.pause)
                yield row(key)

    def keys(self, entries: Iterable[Entry]) -> Iterator[bytes]:
        """As they are listed, or once the right bytes have been read."""
        if not self.read:
            yield from (entry.key for entry in entries)
            return
        for found in read_all(entries, ahead=8):
            assert found.error is None and found.data == content(found.key), found
            yield found.key

    def describe(self) -> dict[str, Any]:
        return {"members": ["a", "b"], "bundle_digest": "d", "engine": "e", "precision": "fp32", "preprocessing": "p"}


def row(key: bytes) -> Row:
    """A score from the key's checksum; every eleventh image has failed."""
    value = zlib.crc32(key) / 2**32
    if zlib.crc32(key) % 11 == 0:
        none = np.full(2, np.nan, np.float32)
        nan = float("nan")
        return Row(key, nan, nan, none, Status.corrupt, f"damaged: {value}", 0, 0, len(key))
    return Row(key, value, value / 9, np.array([value, 1 - value], np.float32), Status.ok, "", 640, 480, len(key))


def images(folder: Path, count: int = IMAGES) -> Path:
    """Files with names in two levels, some of them not UTF-8."""
    for i in range(count):
        name = os.fsencode(folder / f"{i % 7}") + b"/%c%d.jpg" % (b"ab\xe9"[i % 3], i)
        (folder / f"{i % 7}").mkdir(parents=True, exist_ok=True)
        with open(name, "wb"):
            pass
    return folder


def content(key: bytes) -> bytes:
    """What is in the member of a key."""
    return b"\xff\xd8\xff\xe0" + key.rpartition(b"/")[2].removesuffix(b".jpg") * 50


def archives(folder: Path, form: str, count: int = IMAGES, shards: int = 4) -> Path:
    """Archives or tables of as many images."""
    folder.mkdir()
    for shard in range(shards):
        names = [b"%d.jpg" % i for i in range(shard, count, shards)]
        if form == "parquet":
            import pyarrow as pa
            from pyarrow import parquet

            table = pa.table({"image": [content(b"%d" % i) for i in range(len(names))]})
            parquet.write_table(table, folder / f"{shard}.parquet", row_group_size=10)
            continue
        with tarfile.open(folder / f"{shard}.{form}", "w:gz" if form.endswith("gz") else "w") as archive:
            for name in names:
                info = tarfile.TarInfo(name.decode())
                info.size = len(content(name))
                archive.addfile(info, io.BytesIO(content(name)))
    return folder


@contextmanager
def bucket(folder: Path, form: str) -> Iterator[str]:
    """The URL of as many images in a bucket: in tars, or each an object of its own."""
    from metaqap_fast.bench.s3_server import ENVIRONMENT, put

    if form == "s3-tar":
        objects = {path.name: path.read_bytes() for path in archives(folder, "tar").iterdir()}
    else:
        objects = {f"{i % 7}/{i}.jpg": content(b"%d" % i) for i in range(IMAGES)}
    command = [sys.executable, "-m", "metaqap_fast.bench.s3_server", "0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().split()[0]
        os.environ.update({**ENVIRONMENT, "AWS_ENDPOINT_URL": url})
        put({f"photos/{name}": data for name, data in objects.items()})
        yield "s3://data/photos"
        server.communicate()


def apart(*arguments: Any, **options: Any) -> None:
    """`score` in a child: here it would start threads, which a later fork would not have."""
    child = os.fork()
    if not child:
        try:
            score(*arguments, **options)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def datasets(path: Path) -> dict[str, list[bytes]]:
    """Every dataset of a score file, as bytes."""
    with h5py.File(path) as file:
        return {
            name: [bytes(value) if hasattr(value, "__len__") else value.tobytes() for value in data[:]]
            for name, data in file["scores"].items()
        }


def same(out: Path, expected: dict[str, list[bytes]]) -> bool:
    """Whether a score file is there, can be read, and holds what is expected."""
    try:
        return datasets(out) == expected
    except (OSError, KeyError):
        return False


def score(
    folder: Path | str, out: Path, mode: str, log: Path | None = None, pause: float = 0.0003, read: bool = False
) -> None:
    """One run, as the command line makes it."""
    run(FakeScorer(log, pause, read), Listing([folder]), out, mode, rows_per_part=PER_PART)  # type: ignore[arg-type]


def mutate(name: str) -> None:
    """Take one protection out."""
    if name == "in_place":  # parts are written where they stand, not beside and renamed

        def commit(self: parts.Parts) -> None:
            path = self._folder / f"part-{self._number:06d}-0123456789abcdef.h5"
            rows = sorted(self._waiting, key=lambda row: merge.key_order(row.key))
            with create_scores(path, self._attributes) as file:
                append_rows(file, ScoreTable.from_rows(rows, self._attributes))
            self._waiting.clear()
            self._number += 1
            self._report(path)

        parts.Parts.commit = commit  # type: ignore[method-assign]
        store.intact = lambda path: True
    elif name == "forget":  # what was committed before is not looked at
        store.Store._recover = lambda self: None  # type: ignore[method-assign]
    elif name == "output_in_place":
        original = Path.with_name
        Path.with_name = lambda self, new: self if new.endswith(".merging") else original(self, new)  # type: ignore[method-assign]
    elif name:
        raise SystemExit(f"no such mutation: {name}")


def committed(out: Path) -> set[bytes]:
    """Keys that are safe on disk."""
    keys: set[bytes] = set()
    for path in [*out.parent.glob(f"{out.name}.parts/part-*.h5"), *([out] if out.exists() else [])]:
        keys.update(ScoreTable.read(path).keys)
    return keys


def main(work: Path, kills: int, seed: int, mutation: str = "", form: str = "folder") -> dict[str, Any]:
    """Kill until `kills` runs have been killed; compare each finished output with that of an undisturbed run."""
    if form.startswith("s3-"):
        for name in ("s3fs", "pycurl", "aiobotocore.session"):
            importlib.import_module(name)
        with bucket(work / "photos", form) as url:
            return kill_runs(work, url, kills, seed, mutation, apart, {"read": True, "pause": 0.01})
    folder = images(work / "photos") if form == "folder" else archives(work / "photos", form)
    return kill_runs(work, folder, kills, seed, mutation, score, {"read": form != "folder"})


def kill_runs(
    work: Path,
    folder: Path | str,
    kills: int,
    seed: int,
    mutation: str,
    undisturbed: Callable[..., None],
    options: dict[str, Any],
) -> dict[str, Any]:
    """See `main`. `undisturbed` is `score` or does the same; `options` are those of `score`."""
    random.seed(seed)
    whole = work / "whole.h5"
    undisturbed(folder, whole, "new", **options)
    start = time.monotonic()  # of the second: the first one imports
    undisturbed(folder, whole, "overwrite", **options)
    length, expected = time.monotonic() - start, datasets(whole)
    mutate(mutation)
    killed = finished = scored_twice = lost = different = failed = with_rows = 0
    while killed < kills:
        out, log = work / f"{finished}.h5", work / "log"
        safe: set[bytes] = set()
        while True:
            log.unlink(missing_ok=True)
            child = os.fork()
            if not child:
                try:
                    score(folder, out, "resume", log, **options)
                except BaseException as error:  # noqa: BLE001 -- a child must never come back from here
                    print(f"{type(error).__name__}: {error}", file=sys.stderr)
                    os._exit(1)
                os._exit(0)
            if killed < kills:
                time.sleep(random.uniform(0, 1.1 * length))
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if log.exists():
                scored_twice += len(safe & set(log.read_bytes().split(b"\n")))
            if status == 0:
                break
            if os.WIFSIGNALED(status):
                killed += 1
            else:
                failed += 1
            try:
                now = committed(out)
            except (MetaqapError, OSError):
                failed += 1
                break
            lost += len(safe - now)
            with_rows += os.WIFSIGNALED(status) and bool(now)
            safe = now
            if lost or scored_twice:
                break
        finished += 1
        if not same(out, expected) or list(out.parent.glob("*.parts")):
            different += 1
        shutil.rmtree(f"{out}.parts", ignore_errors=True)
        if failed or lost or scored_twice or different:
            break
    return {
        "kills": killed, "with_rows": with_rows, "outputs": finished, "different": different, "failed_runs": failed,
        "committed_rows_lost": lost, "rows_scored_again": scored_twice, "seed": seed, "run_seconds": round(length, 3),
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])))
