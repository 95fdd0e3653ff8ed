"""How fast is a run, against its own stages and against the loop that people write first.

    python -m metaqap_fast.bench.throughput DIR [--images N] [--precision fp32]

Decode only, inference only, the whole run and the eager loop are timed in turn in one process, several times
over, so that a machine that changes its speed changes all of them; the figures are ratios of medians. The
eager loop opens each file with Pillow and runs the same members in torch, fp32, one image at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.bundle import Bundle
from metaqap_fast.run import run
from metaqap_fast.scorer import Scorer
from metaqap_fast.source import Entry, Listing, read_all

EAGER_IMAGES = 40


class _Entries(Listing):
    """The first images of a listing."""

    def __init__(self, listing: Listing, count: int) -> None:
        self.sources, self.skipped = listing.sources, 0
        self.entries = list(islice(listing, count))

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)


def measure(sources: Sequence[str], images: int, precision: str = "auto", repeats: int = 3) -> dict[str, Any]:
    """Images per second of each stage, the whole and the eager loop, and their ratios.

    Args:
        sources: see `Listing`.
        images: how many to use for each timing; the eager loop uses at most EAGER_IMAGES of them.
        precision: of the engine.
        repeats: rounds; medians are reported, and every sample.
    """
    scorer = Scorer(precision=precision)
    entries = _Entries(Listing(sources), images)
    count = len(entries.entries)
    eager_entries = entries.entries[:EAGER_IMAGES]
    eager = eager_loop(scorer.bundle)
    views = [image.views for image in islice(scorer.decoder.stream(read_all(entries)), 32)]
    stages: dict[str, tuple[Callable[[], object], int]] = {
        "decode": (lambda: _exhaust(scorer.decoder.stream(read_all(entries))), count),
        "inference": (lambda: _exhaust(scorer.engine.predict((i, views[i % len(views)]) for i in range(count))), count),
        "whole": (lambda: _whole(scorer, entries), count),
        "eager": (lambda: [eager(entry.path) for entry in eager_entries], len(eager_entries)),
    }
    samples: dict[str, list[float]] = {name: [] for name in stages}
    eager(eager_entries[0].path)  # the first call of anything is not counted
    _exhaust(scorer.engine.predict((i, views[i % len(views)]) for i in range(8)))
    for _ in range(repeats):
        for name, (work, done) in stages.items():
            start = time.perf_counter()
            work()
            samples[name].append(done / (time.perf_counter() - start))
    rates = {name: statistics.median(values) for name, values in samples.items()}
    return {
        "images": count,
        "engine": scorer.engine.name,
        "precision": scorer.engine.precision,
        "device": scorer.engine.device,
        "amx": "amx_tile" in Path("/proc/cpuinfo").read_text(),
        "bundle": scorer.bundle.name,
        "images_per_second": samples,
        "whole_over_slowest_stage": rates["whole"] / min(rates["decode"], rates["inference"]),
        "whole_over_eager_loop": rates["whole"] / rates["eager"],
    }


def _exhaust(items: Iterator[object]) -> None:
    for _ in items:
        pass


def _whole(scorer: Scorer, entries: Listing) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run(scorer, entries, os.path.join(folder, "scores.h5"))


def eager_loop(bundle: Bundle) -> Callable[[bytes], float]:
    """A function from a file's path to its score: Pillow, torch eager in fp32, one image, one member at a time.

    Only for images of the members' input size: it does not resize.
    """
    import torch
    from PIL import Image

    from metaqap_fast.engine import graph
    from metaqap_fast.engine.onnx_torch import module

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    members = [module(graph.load(member.file)) for member in bundle.members]

    @torch.no_grad()
    def score(path: bytes) -> float:
        image = Image.open(os.fsdecode(path)).convert("RGB")
        pixels: NDArray[np.uint8] = np.array(image)
        view = torch.from_numpy(pixels)[None]  # [1, H, W, 3]
        predictions = [float(member(view)) for member in members]
        return float(np.dot(predictions, bundle.meta.weights) + bundle.meta.intercept)

    return score


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="+")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(json.dumps(measure(options.source, options.images, options.precision, options.repeats), indent=2))


if __name__ == "__main__":
    main()
