"""A million names: little memory, and the first score soon. A tenth of it in CI, all of it in the nightly target."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

MEGABYTES, SECONDS = 300, 10

# Processor time is the measure of "soon": names are in memory, so that on an idle machine it is the wall's time too,
# and on a busy one it is not the others' time. The listing is one thread; threads of the engine only add.
CODE = """
import json, sys, time
from metaqap_fast import Scorer
from metaqap_fast.input.files import Listing
def peak():
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
scorer = Scorer(sys.argv[2], precision="fp32")
idle, start = peak(), time.process_time()
listing = Listing([sys.argv[1]])
rows = scorer.stream(listing)
first = next(rows)
seconds = time.process_time() - start
ahead = peak() - idle
rows.close()
count = sum(1 for _ in listing)
print(json.dumps({"first": first.status, "count": count, "seconds": seconds, "ahead_mb": ahead, "mb": peak()}))
"""


@pytest.fixture
def fast() -> Iterator[Path]:
    """A folder in memory where there is one: a million links on a disk say nothing about this program."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None) as folder:
        yield Path(folder)


def one_folder(work: Path, image: Path, count: int) -> str:
    (work / "photos").mkdir()
    for i in range(count):
        os.link(image, work / "photos" / f"photograph-of-something-{i * 7919 % count:07d}.ppm")
    return os.fspath(work / "photos")


def many_folders(work: Path, image: Path, count: int) -> str:
    for i in range(count):
        folder = work / "photos" / f"{i // 500 * 37 % 5003:04d}"
        if i % 500 == 0:
            folder.mkdir(parents=True)
        os.link(image, folder / f"photograph-{i:07d}.ppm")
    return os.fspath(work / "photos")


def a_list(work: Path, image: Path, count: int) -> str:
    folder = one_folder(work, image, count)
    with open(work / "list.txt", "w") as file:
        file.writelines(f"{folder}/{name}\n" for name in os.listdir(folder))
    return f"@{work}/list.txt"


@pytest.mark.parametrize("source", [one_folder, many_folders, a_list])
@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=pytest.mark.nightly)])
def test_many_names(bundle: Path, photo: Image.Image, fast: Path, source: object, count: int) -> None:
    image = fast / "0.ppm"
    photo.crop((0, 0, 64, 64)).save(image)
    name = source(fast, image, count)  # type: ignore[operator]
    command = [sys.executable, "-c", CODE, name, str(bundle)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    print(source.__name__, found)  # type: ignore[attr-defined]
    assert (found["first"], found["count"]) == (0, count)
    assert found["mb"] < MEGABYTES  # of the whole process, libraries included
    assert found["seconds"] < SECONDS * count / 1_000_000 + 1
    assert found["ahead_mb"] < 15 + 150 * count / 1_000_000  # before the first score
