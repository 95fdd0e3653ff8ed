"""A long run whose memory, handles and threads are watched.

    python -m metaqap_fast.bench.soak --images 200000 [--model BUNDLE] [-o soak.json]

Few files under many names (hard links), one in a hundred of them damaged, scored by the command line in a process
of its own. That process and its decoder are sampled; after the warm-up a line is fitted to each measure, and its
slope times the number of images is the growth that is reported.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from metaqap_fast import __version__
from metaqap_fast.bench.printed import printed
from metaqap_fast.options import MODEL
from metaqap_fast.scores.table import ScoreTable

WARM_UP = 0.2  # of the run's time
LINKS = 30_000  # names of one file; ext4 allows 65,000
LIMITS = {"memory": 16.0, "handles": 4.0, "threads": 2.0}  # growth that a clean run may show


def make_images(folder: Path, count: int, bad_every: int = 100) -> int:
    """Hard links to a few PNM images of 64x64 and, one in `bad_every`, to damaged ones; the number of bad names."""
    rng = np.random.default_rng(0)
    good: list[Path] = []
    bad: list[Path] = []
    for i in range(-(-count // LINKS) + 4):
        data = b"P6 64 64 255\n" + rng.integers(0, 256, 64 * 64 * 3, dtype=np.uint8).tobytes()
        for name, content, group in ((f"good{i}", data, good), (f"bad{i}", (data[:500], b"", b"text")[i % 3], bad)):
            path = folder / name
            path.write_bytes(content)
            group.append(path)
    wrong = 0
    for i in range(count):
        part = folder / "images" / f"{i // 1000:04d}"
        if i % 1000 == 0:
            part.mkdir(parents=True)
        is_bad = i % bad_every == bad_every - 1
        wrong += is_bad
        group = bad if is_bad else good
        os.link(group[i % len(group)], part / f"{i:07d}.ppm")
    return wrong


def sample(process: psutil.Process) -> dict[str, float]:
    """Resident memory in MB without files, open handles and threads of one process."""
    # By hand: psutil counts memory that processes share, which views travel in, with mapped files.
    status = Path(f"/proc/{process.pid}/status").read_text()
    values = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    anonymous = int(values["RssAnon"].split()[0]) + int(values["RssShmem"].split()[0])
    return {"memory_mb": anonymous / 1024, "handles": process.num_fds(), "threads": process.num_threads()}


def growth(times: list[float], values: list[float]) -> float:
    """What a straight line through the values after the warm-up gains until the end."""
    t, v = np.array(times), np.array(values)
    kept = t >= t[0] + WARM_UP * (t[-1] - t[0])
    slope = float(np.polyfit(t[kept], v[kept], 1)[0])
    return slope * float(t[-1] - t[kept][0])


def soak(images: int, model: str = MODEL, interval: float = 2.0) -> dict[str, Any]:
    """Make the images, score them, watch; see the module."""
    with tempfile.TemporaryDirectory() as work:
        wrong = make_images(Path(work), images)
        out = Path(work, "scores.h5")
        code = "from metaqap_fast.cli import main; main()"
        arguments = ["score", f"{work}/images", "--model", model, "-o", str(out), "--quiet"]
        start = time.monotonic()
        process = subprocess.Popen([sys.executable, "-c", code, *arguments])
        times: list[float] = []
        samples: dict[str, list[float]] = {}
        while process.poll() is None:
            time.sleep(interval)
            try:
                run = psutil.Process(process.pid)
                watched = {"run": run, "decoder": run.children()[0]}
                row = {f"{who}_{k}": v for who, each in watched.items() for k, v in sample(each).items()}
            except (psutil.Error, OSError, IndexError, KeyError):  # starting or ending
                continue
            times.append(time.monotonic() - start)
            for name, value in row.items():
                samples.setdefault(name, []).append(value)
        seconds = time.monotonic() - start
        table = ScoreTable.read(out)
        return {
            "program_version": __version__,
            "model": str(table.attributes["bundle"]),
            "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} CPUs",
            "images": images,
            "bad": wrong,
            "rows": len(table),
            "scored": int(table.ok.sum()),
            "exit_status": process.returncode,
            "seconds": round(seconds, 1),
            "samples": len(times),
            "growth_after_warm_up": {name: round(growth(times, values), 2) for name, values in samples.items()},
            "peak": {name: round(max(values), 1) for name, values in samples.items()},
        }


def main() -> None:
    """Soak and print JSON; exit status 1 if rows are missing or anything grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--interval", type=float, default=2.0)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    result = soak(options.images, options.model, options.interval)
    printed(result, options.output, indent=2)
    grown = {
        name: value for name, value in result["growth_after_warm_up"].items() if value > LIMITS[name.split("_")[1]]
    }
    if result["rows"] != result["images"] or result["scored"] != result["images"] - result["bad"] or grown:
        sys.exit(f"not clean: {grown or 'rows'}")


if __name__ == "__main__":
    main()
