"""The regression gate: ratios measured in one process, side by side, that hold on a small and busy machine.

    python -m metaqap_fast.bench.gate [--model NAME]

No absolute time is compared with anything. CPU seconds stand for time where they can, for another program on the
machine takes wall time from us, but hardly CPU seconds; rounds of ours and of the reference alternate.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from metaqap_fast.bench.gpu_host import host_microseconds
from metaqap_fast.bench.idle import tree, tree_seconds
from metaqap_fast.bench.images import First, generate
from metaqap_fast.bench.peer_works import eager_loop
from metaqap_fast.engine.cpu import has
from metaqap_fast.input.reading import read_all
from metaqap_fast.run import run
from metaqap_fast.scorer import Scorer

IMAGES = 6
ROUNDS = 3
MOST_ROUNDS = 12  # while the whole seems slower than its bound: other programs lengthen a round, none shortens one
OVERLAP = "whole over slowest stage"
HOST = "CPU time of a GPU's host over Pillow's to decode"  # for an image, see gpu_host
# What must hold: (lowest, highest); None where there is no bound.
BOUNDS: dict[str, tuple[float | None, float | None]] = {
    # .11 to .14 on busy machines with AVX512; .16 to .24 on an EPYC with AVX2 alone, whose speed changes by the second
    HOST: (None, 0.18 if has("avx512") else 0.26),
    "eager CPU time over ours": (1.2, None),  # 1.54 in fp32 on a CPU with AVX512, with one thread for eager
    "CPU time of the stages over the whole": (0.75, None),  # what the run adds to its stages
    OVERLAP: (0.5, None),
    "bytes read over bytes of the files": (0.99, 1.05),  # every file once
    "bytes written over bytes handed on": (0.99, 1.05),  # files to the decoder, views back, once each
}


def measure(model: str = "default", images: int = IMAGES, rounds: int = ROUNDS) -> dict[str, float]:
    """The ratios of BOUNDS."""
    with tempfile.TemporaryDirectory() as work:
        scorer = Scorer(model, device="cpu", precision="fp32")
        size = scorer.bundle.view_size
        entries = First([str(generate(Path(work), f"{size}x{size}", images))], images)
        encoded = list(read_all(entries.entries))
        views = [image.views for image in scorer.decoder.stream(iter(encoded))]
        eager, number = eager_loop(scorer.bundle), iter(range(1_000_000))

        def whole() -> None:
            run(scorer, entries, os.path.join(work, f"{next(number)}.h5"))

        works: dict[str, Callable[[], object]] = {
            "decode": lambda: list(scorer.decoder.stream(iter(encoded))),
            "inference": lambda: list(scorer.engine.predict(enumerate(views))),
            "whole": whole,
            "eager": lambda: eager(entries.entries[0].path),
        }
        torch.set_num_threads(1)  # threads that wait for each other spin: CPU time that grows with the machine's load
        whole()
        eager(entries.entries[0].path)
        cpu: dict[str, list[float]] = {name: [] for name in works}
        wall: dict[str, list[float]] = {name: [] for name in works}
        for done in range(MOST_ROUNDS):
            if done >= rounds and _overlap(wall) >= (BOUNDS[OVERLAP][0] or 0):
                break
            for name, action in works.items():
                spent, start = tree_seconds(), time.perf_counter()
                action()
                wall[name].append(time.perf_counter() - start)
                cpu[name].append(tree_seconds() - spent)
        read, written = _moved(whole)
        entries.entries = entries.entries[:1]
        fixed_read, fixed_written = _moved(
            whole
        )  # what a run reads and writes whatever the number of images: its own score file
        scorer.close()
    nbytes = sum(len(image.data) for image in encoded[1:])
    host = host_microseconds(images=1000, enough=BOUNDS[HOST][1] or 0)
    handed = nbytes + sum(view.nbytes for view in views[1:])
    cost = {name: statistics.median(values) for name, values in cpu.items()}
    return {
        HOST: host["cpu_us"] / host["pillow_us"],
        "eager CPU time over ours": cost["eager"] / (cost["whole"] / images),
        "CPU time of the stages over the whole": (cost["decode"] + cost["inference"]) / cost["whole"],
        OVERLAP: _overlap(wall),
        "bytes read over bytes of the files": (read - fixed_read) / nbytes,
        "bytes written over bytes handed on": (written - fixed_written) / handed,
    }


def _overlap(wall: dict[str, list[float]]) -> float:
    """Seconds of the slowest stage over those of the whole, each at its best."""
    return max(min(wall["decode"]), min(wall["inference"])) / min(wall["whole"])


def _moved(work: Callable[[], object]) -> tuple[int, int]:
    """Bytes that this process and its decoder read and wrote meanwhile; a look at all processes would count too."""
    processes = tree()
    before = [process.io_counters() for process in processes]
    work()
    pairs = list(zip(before, (process.io_counters() for process in processes), strict=True))
    return sum(b.read_chars - a.read_chars for a, b in pairs), sum(b.write_chars - a.write_chars for a, b in pairs)


def broken(ratios: dict[str, float]) -> list[str]:
    """Every ratio that is out of its bounds, in words."""
    found = []
    for name, value in ratios.items():
        low, high = BOUNDS[name]
        if (low is not None and value < low) or (high is not None and value > high):
            found.append(f"{name}: {value:.2f}, not within [{low or '-'}, {high or '-'}]")
    return found


def main() -> None:
    """Measure, print JSON, exit status 1 if a ratio is out of bounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    ratios = measure(parser.parse_args().model)
    print(json.dumps({name: round(value, 3) for name, value in ratios.items()}, indent=1))
    if found := broken(ratios):
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
