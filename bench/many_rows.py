"""What is done with many rows: time and peak memory of every command that reads score files, and of resume.

    python -m metaqap_fast.bench.many_rows --rows 10000000 [--work FOLDER] [-o rows.json]

The rows are made up, not scored: ten shares of a source, each image in the one that `--shard` would give it to. Each
command runs in a process of its own; its peak is the most that it or a process that it started had in memory.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from metaqap_fast import __version__
from metaqap_fast.bench.printed import printed
from metaqap_fast.errors import Status
from metaqap_fast.scores.done import Done
from metaqap_fast.scores.durable import write_scores
from metaqap_fast.scores.merge import chunks
from metaqap_fast.scores.schema import COLUMNS
from metaqap_fast.scores.table import ScoreTable

SHARDS = 10
PIECE = 4096  # rows made at once
LABELS = 10_000
LIMIT_MB = 1000.0
MEMBERS = ["mobilenetv2", "efficientnet_lite0"]
ABOUT = {
    "bundle": "made up", "bundle_digest": "0" * 64, "members": MEMBERS, "engine": "none", "precision": "fp32",
    "preprocessing": "views=fit", "source": ["photographs"], "roots": ["file:///photographs"],
    "root": "file:///photographs",
}  # fmt: skip


def key_of(number: int) -> bytes:
    """Of the length that photographs' keys have: a day, and a camera's name of a file."""
    return b"2026-%02d-%02d/IMG_%09d.jpg" % (number % 12 + 1, number % 28 + 1, number)


def make(folder: Path, rows: int) -> list[Path]:
    """The score files of the shares."""
    share = np.fromiter((_share(key_of(i)) for i in range(rows)), np.uint8, rows)
    paths = []
    for shard in range(SHARDS):
        paths.append(folder / f"part-{shard}.h5")
        numbers = np.flatnonzero(share == shard)
        keys = np.array([key_of(i) for i in numbers.tolist()])
        order = np.argsort(keys)
        write_scores(paths[-1], {**ABOUT, "shard": f"{shard}/{SHARDS}"}, _tables(keys[order], numbers[order]))
    return paths


def _share(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big") % SHARDS


def _tables(keys: Any, numbers: Any) -> Iterator[ScoreTable]:
    rng = np.random.default_rng(len(numbers))
    for start in range(0, len(keys), PIECE):
        some = numbers[start : start + PIECE]
        failed = some % 100 == 0
        scores = np.where(failed, np.nan, rng.beta(5, 3, len(some))).astype(np.float32)
        columns = {
            "key": keys[start : start + PIECE].tolist(), "score": scores, "uncertainty": scores / 9,
            "members": np.stack([scores, scores * scores], 1),
            "status": np.where(failed, Status.corrupt, Status.ok).astype(np.uint8),
            "error": ["JPEG: no end marker" if bad else "" for bad in failed.tolist()],
            "width": np.full(len(some), 4000, np.uint32), "height": np.full(len(some), 3000, np.uint32),
            "nbytes": (some + 1_000_000).astype(np.uint64), "seen": (some + 1).astype(np.uint64),
        }  # fmt: skip
        others = {c.field: c.absent(len(some), ABOUT) for c in COLUMNS if c.field not in columns}
        yield ScoreTable({**columns, **others}, ABOUT)


def labels(path: Path, rows: int) -> None:
    """Opinions of some of the images."""
    rng = np.random.default_rng(1)
    some = rng.choice(rows, min(LABELS, rows), replace=False)
    lines = (f"{key_of(i).decode()},{mos:.3f}" for i, mos in zip(some.tolist(), rng.random(len(some)), strict=True))
    path.write_text("\n".join(["image,mos", *lines]))


def measured(*arguments: object, code: str = "from metaqap_fast.cli import main; main()") -> dict[str, Any]:
    """Seconds, those of processors, and peak memory (MB) of a command and of the processes that it has started."""
    begin = time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{arguments} ended with status {status}")
    return {
        "seconds": round(time.monotonic() - begin, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": round(usage.ru_maxrss / 1024, 1),
    }


def resumed(path: str) -> Done:
    """What `--resume` holds of a score file."""
    return Done(chunks(path))


def many_rows(rows: int, work: Path) -> dict[str, Any]:
    """Every command once; see the module."""
    begin = time.monotonic()
    parts = make(work, rows)
    labels(work / "labels.csv", rows)
    made = time.monotonic() - begin
    whole = work / "scores.h5"
    resume = "import sys; from metaqap_fast.bench.many_rows import resumed; assert len(resumed(sys.argv[1]))"
    found = {
        "merge of 10 shares": measured("merge", *parts, "-o", whole),
        "inspect": measured("inspect", whole),
        "export to csv": measured("export", whole, work / "s.csv"),
        "export to parquet": measured("export", whole, work / "s.parquet"),
        "export to jsonl": measured("export", whole, work / "s.jsonl"),
        "evaluate": measured("evaluate", whole, "--labels", work / "labels.csv", "--draws", 100),
        "report without pictures": measured("report", whole, "--no-pictures"),
        "select the worst": measured("select", whole, "--worst", "1%"),
        "compare": measured("compare", whole, whole),
        "resume": measured(whole, code=resume),
    }
    return {
        "rows": rows, "labels": min(LABELS, rows), "version": __version__, "machine": platform.processor(),
        "cpus": len(os.sched_getaffinity(0)), "made_seconds": round(made, 1),
        "file_mb": round(whole.stat().st_size / 1e6, 1), "commands": found,
    }  # fmt: skip


def main() -> None:
    """Print the figures; status 1 if a command takes more memory than it may."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--work", type=Path, help="a folder on a disk with room for 5 kB a row")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        found = many_rows(options.rows, Path(folder))
    printed(found, options.output)
    sys.exit(any(each["peak_mb"] > LIMIT_MB for each in found["commands"].values()))


if __name__ == "__main__":
    main()
