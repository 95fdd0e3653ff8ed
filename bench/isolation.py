"""What decoding in a supervised process costs, in throughput.

    python -m metaqap_fast.bench.isolation DIR [--images 40] [--rounds 5] [--model default] [--precision fp32]

The same scorer runs with its decoder in a process of its own and with it in this one, in turn, in one process, over
the same images; each round has both, the first of them in every other round. Given are medians over the rounds of
the ratio within a round, which a machine that changes its speed leaves alone: of wall time, and of the processor time
of all processes, which is what counts where inference keeps every core busy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

import psutil

from metaqap_fast.decode import Decoder
from metaqap_fast.decode.local import LocalDecoder
from metaqap_fast.decode.supervisor import Supervisor
from metaqap_fast.input.files import Listing
from metaqap_fast.options import MODEL
from metaqap_fast.records import Entry
from metaqap_fast.scorer import Scorer


def processor_seconds(process: psutil.Process) -> float:
    """Processor time that a process has used, all its threads."""
    times = process.cpu_times()
    return float(times.user + times.system)


def measure(
    sources: Sequence[str], images: int, rounds: int, model: str = MODEL, precision: str = "fp32"
) -> dict[str, Any]:
    """Seconds an image with and without the process, and their ratio (1.03: it costs 3 %)."""
    scorer = Scorer(model, precision=precision)
    isolated = scorer.decoder
    assert isinstance(isolated, Supervisor), "on a GPU nothing is decoded in a process"
    decoders: dict[str, Decoder] = {"isolated": isolated, "here": LocalDecoder(isolated.options)}
    entries = list(islice(Listing(sources), images))
    assert isolated.pid is not None
    worker = psutil.Process(isolated.pid)

    def timed(name: str, some: Sequence[Entry]) -> dict[str, float]:
        scorer.decoder = decoders[name]
        wall, processor = time.perf_counter(), time.process_time() + processor_seconds(worker)
        failed = sum(row.status != 0 for row in scorer.stream(some))
        assert not failed, f"{failed} images failed: take good ones"
        return {
            "wall": (time.perf_counter() - wall) / len(some),
            "processor": (time.process_time() + processor_seconds(worker) - processor) / len(some),
        }

    found: dict[str, list[dict[str, float]]] = {name: [] for name in decoders}
    for name in decoders:
        timed(name, entries[:2])  # the first call of anything is not counted
    for turn in range(rounds):
        for name in sorted(decoders, reverse=bool(turn % 2)):
            found[name].append(timed(name, entries))
    assert isolated.restarts == 0
    scorer.close()
    ratios = {
        kind: [one[kind] / other[kind] for one, other in zip(found["isolated"], found["here"], strict=True)]
        for kind in ("wall", "processor")
    }
    return {
        "images": len(entries),
        "rounds": rounds,
        "model": scorer.bundle.name,
        "precision": scorer.engine.precision,
        "device": scorer.engine.device,
        "seconds_per_image": found,
        "isolated_over_here": {kind: round(statistics.median(values), 4) for kind, values in ratios.items()},
        "of_each_round": {kind: [round(value, 4) for value in values] for kind, values in ratios.items()},
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="+")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--precision", default="fp32")
    options = parser.parse_args()
    result = measure(options.source, options.images, options.rounds, options.model, options.precision)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
