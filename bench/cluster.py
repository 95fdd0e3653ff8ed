"""What Ray costs, and what a second worker brings: the same images by one process and by Ray's workers, by turns.

    python -m metaqap_fast.bench.cluster [--images 3600] [--rounds 2] [--precision auto]

A rate is that of the images between a short and a long run, so that neither starting Ray nor compiling a model counts;
both starts are given beside it. In runs of a few hundred images their noise tells. The workers have a core each, and
so has the process on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from metaqap_fast.bench.environment import describe
from metaqap_fast.bench.images import generate

CASES = {
    "one process, one core": ["--threads", "1"],
    "one process, two cores": ["--threads", "2"],
    "Ray, two workers": ["--ray"],
}


def seconds(folder: Path, images: int, options: list[str], precision: str, out: Path) -> float:
    """Of a whole run over the first images of a folder."""
    names = "\n".join(str(path) for path in sorted(folder.iterdir())[:images])
    command = [
        "-c",
        "from metaqap_fast.cli import main; main()",
        "score",
        "@-",
        "-o",
        str(out),
        "--overwrite",
        "--quiet",
    ]
    start = time.monotonic()
    subprocess.run([sys.executable, *command, "--precision", precision, *options], input=names, text=True, check=True)
    return time.monotonic() - start


def main() -> None:
    """Print each round and the medians as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3600)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("needs two cores")
    short = options.images // 4
    rounds: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as work:
        folder = generate(Path(work, "images"), "512x512", options.images)
        for _ in range(options.rounds):
            found = {}
            for name, extra in CASES.items():
                few, all_ = (
                    seconds(folder, count, extra, options.precision, Path(work, "s.h5"))
                    for count in (short, options.images)
                )
                found[name] = (options.images - short) / (all_ - few)
                found[f"{name}: seconds to start"] = few - short / found[name]
            found["Ray over one core"] = found["Ray, two workers"] / found["one process, one core"]
            found["Ray over two cores"] = found["Ray, two workers"] / found["one process, two cores"]
            rounds.append(found)
            print(json.dumps({name: round(value, 3) for name, value in found.items()}), file=sys.stderr)
    medians = {name: round(statistics.median(each[name] for each in rounds), 3) for name in rounds[0]}
    print(json.dumps({"medians": medians, "rounds": len(rounds), "environment": describe()}, indent=1, default=str))


if __name__ == "__main__":
    main()
