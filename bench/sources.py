"""Does it matter where images are: the same ones in a folder, in tar, zip, parquet and arrow files, and in a bucket.

    python -m metaqap_fast.bench.sources [--images 2000] [--repeats 5] [-o sources.json]
    python -m metaqap_fast.bench.sources --large [-o large.json]

The first scores small JPEGs with a model that costs next to nothing, each source in turn and in random order; a rate is
compared with that of the folder in the same round, and scores with its scores. The bucket is an S3 server on this
machine (a process of its own), which waits before each answer.

The second reads a million members of 10 kB from 100 tars, and 20 GB from one. Nothing is decoded: rows are made of
the bytes that were read. The tars are hard links of five, the 20 GB are holes: both come from memory, not from a disk.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from metaqap_fast.bench.environment import brief
from metaqap_fast.bench.printed import printed
from metaqap_fast.bench.s3_server import ENVIRONMENT, put
from metaqap_fast.bench.tiny import write_tiny
from metaqap_fast.errors import Status
from metaqap_fast.input import open_sources
from metaqap_fast.input.ahead import Ahead
from metaqap_fast.input.reading import read_all
from metaqap_fast.records import Entry, Row
from metaqap_fast.run import run
from metaqap_fast.scorer import Scorer
from metaqap_fast.scores.table import ScoreTable

SHARDS = 5
LATENCY = 0.05  # seconds before each answer of the bucket
TARS, MEMBERS, MEMBER_BYTES = 100, 10_000, 10_000  # a million
SIDE = 577  # of the pictures of the 20 GB: 1 MB each
BIG_MEMBERS = 20_000


def jpegs(count: int, seed: int = 0) -> dict[str, bytes]:
    """Pictures of 160x120 pixels, of some 10 kB."""
    from PIL import Image

    rng, found = np.random.default_rng(seed), {}
    for i in range(count):
        pixels = rng.integers(0, 256, (30, 40, 3), np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).resize((160, 120)).save(out, "JPEG", quality=95)
        found[f"{i:05d}.jpg"] = out.getvalue()
    return found


def as_tar(files: dict[str, bytes]) -> bytes:
    """A tar of them, each with a caption beside it, as WebDataset has."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            for member, data in ((name, content), (name[:-3] + "json", b'{"caption": "a picture"}')):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def lay_out(folder: Path, files: dict[str, bytes]) -> dict[str, list[str]]:
    """The files in every form; sources by their names."""
    import pyarrow as pa
    from pyarrow import parquet

    found = {"folder": [str(folder / "folder")]}
    (folder / "folder").mkdir()
    for name, content in files.items():
        (folder / "folder" / name).write_bytes(content)
    names = list(files)
    for shard in range(SHARDS):
        some = {name: files[name] for name in names[shard * len(names) // SHARDS : (shard + 1) * len(names) // SHARDS]}
        paths = {kind: folder / f"{shard}.{kind}" for kind in ("tar", "tar.gz", "zip", "parquet", "arrow")}
        paths["tar"].write_bytes(as_tar(some))
        with tarfile.open(paths["tar"]) as plain, tarfile.open(paths["tar.gz"], "w:gz", compresslevel=1) as packed:
            for member in plain:
                packed.addfile(member, plain.extractfile(member))
        with zipfile.ZipFile(paths["zip"], "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in some.items():
                archive.writestr(name, content)
        images = [{"bytes": content, "path": name} for name, content in some.items()]
        table = pa.table({"name": list(some), "image": images})
        parquet.write_table(table, paths["parquet"], row_group_size=100)
        with pa.ipc.new_stream(paths["arrow"], table.schema) as stream:
            stream.write_table(table, max_chunksize=100)
        for kind, path in paths.items():
            found.setdefault(kind, []).append(str(path))
    return found


@contextmanager
def bucket(latency: float) -> Iterator[str]:
    """An S3 server in a process of its own, to read from: the environment names it. To be written to: its other URL."""
    command = [sys.executable, "-m", "metaqap_fast.bench.s3_server", str(latency)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None and server.stdout is not None
        written, url = server.stdout.readline().split()
        os.environ.update({**ENVIRONMENT, "AWS_ENDPOINT_URL": url, "FSSPEC_S3_ENDPOINT_URL": url})
        try:
            yield written
        finally:
            server.stdin.close()


def short(key: bytes) -> bytes:
    """A key without its archive."""
    return key.rpartition(b"/")[2]


def processor_seconds() -> tuple[float, float]:
    """Of this process and those that it started, and of the server: what others on the machine do adds nothing."""
    here, program, server = psutil.Process(), 0.0, 0.0
    for process in (here, *here.children(True)):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            times = process.cpu_times()
            if any("s3_server" in word for word in process.cmdline()):
                server += times.user + times.system
            else:
                program += times.user + times.system
    return program, server


def compare(images: int, repeats: int, forms: Sequence[str] = (), model: str = "") -> dict[str, Any]:
    """Rates of every form (or of some), beside that of the folder in the same round; `model`: "" for a tiny one."""
    rates: dict[str, list[float]] = {}
    elsewhere: dict[str, list[float]] = {}
    costs: dict[str, list[float]] = {}
    server: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name, bucket(LATENCY) as written:
        work, files = Path(name), jpegs(images)
        sources = lay_out(work, files)
        tars = {Path(path).name: Path(path).read_bytes() for path in sources["tar"]}
        put({**tars, **{f"files/{name}": content for name, content in files.items()}}, url=written)
        sources["tar in a bucket"] = [f"s3://data/{name}" for name in tars]
        sources["files in a bucket"] = ["s3://data/files"]
        sources = {form: paths for form, paths in sources.items() if not forms or form in forms}
        scores: dict[str, dict[bytes, tuple[float, ...]]] = {}
        with Scorer(model or write_tiny(work / "tiny"), precision="auto" if model else "fp32") as scorer:
            for turn in range(repeats + 1):  # the first one warms up
                for form in random.Random(turn).sample(list(sources), len(sources)):
                    out, start, spent = work / "scores.h5", time.monotonic(), processor_seconds()
                    key = "name" if form in ("parquet", "arrow") else ""
                    run(scorer, Ahead(open_sources(sources[form], key=key)), out, "overwrite")
                    seconds = time.monotonic() - start
                    mine, its = (after - before for after, before in zip(processor_seconds(), spent, strict=True))
                    if turn:
                        rates.setdefault(form, []).append(images / seconds)
                        elsewhere.setdefault(form, []).append(images / (seconds - its / (os.cpu_count() or 1)))
                        costs.setdefault(form, []).append(mine / images)
                        server.setdefault(form, []).append(its / images)
                    table = ScoreTable.read(out)
                    assert table.ok.all() and len(table) == images, form
                    scores[form] = dict(zip(map(short, table.keys), map(tuple, table.members.tolist()), strict=True))

    def beside(found: list[float]) -> list[float]:
        return [round(mine / folder, 3) for mine, folder in zip(found, rates["folder"], strict=True)]

    def middle(found: dict[str, list[float]], scale: float = 1.0) -> dict[str, float]:
        return {form: round(scale * statistics.median(each), 3) for form, each in found.items()}

    return {
        "model": model or "a tiny one",
        "images": images,
        "bytes": sum(map(len, files.values())),
        "latency": LATENCY,
        "images_per_second": middle(rates),
        "beside_the_folder": middle({form: beside(found) for form, found in rates.items()}),
        "beside_the_folder_each_round": {form: beside(found) for form, found in rates.items()},
        "beside_the_folder_if_the_server_took_no_processor": middle(
            {form: beside(found) for form, found in elsewhere.items()}
        ),
        "processor_ms_per_image": middle(costs, 1000),
        "processor_ms_of_the_server_per_image": middle(server, 1000),
        "least_processor_ms_per_image": {form: round(1000 * min(found), 3) for form, found in costs.items()},
        "same_scores": {form: found == scores["folder"] for form, found in scores.items()},
    }


class Reader:
    """Stands in for a scorer: a row of each image's bytes, which are read as a scorer reads them."""

    def stream(self, entries: Iterable[Entry], trace: Any = None) -> Generator[Row]:
        """A row for each."""
        for found in read_all(entries):
            value = zlib.crc32(found.data) / 2**32
            members = np.array([value], np.float32)
            status = Status.ok if found.error is None else found.error.status
            yield Row(found.key, value, 0.1, members, status, "", 1, 1, len(found.data))

    def describe(self) -> dict[str, Any]:
        """See `Scorer.describe`."""
        return {"members": ["a"], "bundle_digest": "d", "engine": "e", "precision": "fp32", "preprocessing": "p"}


def many_members(folder: Path) -> list[str]:
    """A million members of 10 kB in 100 tars, which are links of five."""
    (folder / "million").mkdir()
    rng = np.random.default_rng(0)
    for i in range(5):
        with tarfile.open(folder / f"{i}.tar", "w") as archive:
            for member in range(MEMBERS):
                info = tarfile.TarInfo(f"{i}-{member:06d}.jpg")
                info.size = MEMBER_BYTES
                archive.addfile(info, io.BytesIO(b"\xff\xd8\xff\xe0" + rng.bytes(MEMBER_BYTES - 4)))
    for i in range(TARS):
        os.link(folder / f"{i % 5}.tar", folder / "million" / f"{i:03d}.tar")
    return [str(folder / "million")]


def one_tar(folder: Path) -> list[str]:
    """20 GB: black pictures, whose pixels are holes."""
    path, start = folder / "big.tar", b"P6 %d %d 255\n" % (SIDE, SIDE)
    size = len(start) + SIDE * SIDE * 3
    with open(path, "wb") as file:
        for member in range(BIG_MEMBERS):
            info = tarfile.TarInfo(f"{member:06d}.ppm")
            info.size = size
            file.write(info.tobuf() + start)
            file.seek(-(-size // 512) * 512 - len(start), os.SEEK_CUR)
        file.write(bytes(1024))
        file.truncate()
    return [str(path)]


def read_large(sources: list[str], out: Path) -> dict[str, Any]:
    """One run: its rows a second, seconds to the first row, and the peak of this process."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start, first = time.monotonic(), 0.0

    def on_row(summary: Any) -> None:
        nonlocal first
        first = first or time.monotonic() - start

    summary = run(Reader(), Ahead(open_sources(sources)), out, "overwrite", on_row)  # type: ignore[arg-type]
    seconds = time.monotonic() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "rows": summary.images, "scored": summary.scored, "seconds": round(seconds, 1),
        "rows_per_second": round(summary.images / seconds, 1), "seconds_to_the_first_row": round(first, 3),
        "peak_mb": round(peak, 1), "peak_mb_before": round(before, 1),
    }  # fmt: skip


def large(work: Path) -> dict[str, Any]:
    """Each in a process of its own."""
    found = {}
    for name, make in (("a million members in 100 tars", many_members), ("a tar of 20 GB", one_tar)):
        with tempfile.TemporaryDirectory(dir=work) as folder:
            sources = make(Path(folder))
            code = (
                "import json, sys, pathlib; from metaqap_fast.bench.sources import read_large;"
                "print(json.dumps(read_large(json.loads(sys.argv[1]), pathlib.Path(sys.argv[2]))))"
            )
            command = [sys.executable, "-c", code, json.dumps(sources), f"{folder}/scores.h5"]
            found[name] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def main() -> None:
    """Measure; say it as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--forms", default="", help='such as "folder,tar,tar in a bucket"; folder must be one')
    parser.add_argument("--model", default="", help="a real one, instead of one that costs next to nothing")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    forms = [form for form in options.forms.split(",") if form]
    found = large(options.work) if options.large else compare(options.images, options.repeats, forms, options.model)
    printed({**brief(), **found}, options.output)


if __name__ == "__main__":
    main()
