"""What a view of each model costs in each engine: processor time, the models by turns in one process.

    python -m metaqap_fast.bench.view_cost [MODEL ...] [--engines native,openvino] [--precisions fp32,bf16,int8]

Networks alone, without decoding. Processor time of all threads, since another program on the machine lengthens it
less than it lengthens wall time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metaqap_fast.bench.environment import describe
from metaqap_fast.bench.printed import printed
from metaqap_fast.engine.samples import generated
from metaqap_fast.errors import MetaqapError
from metaqap_fast.scorer import Scorer

VIEWS = 16  # a turn


def main() -> None:
    """Measure, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["default", "fast"], help="names or folders; the first is 1")
    parser.add_argument("--engines", default="native,openvino")
    parser.add_argument("--precisions", default="fp32,bf16,int8")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = {"environment": describe(), "turns": options.turns, "cost": {}}
    for engine in options.engines.split(","):
        for precision in options.precisions.split(","):
            try:
                figures = measured(options.models, engine, precision, options.turns)
            except MetaqapError as error:  # such as a CPU without bf16
                figures = {"not measured": str(error)}
            found["cost"][f"{engine} {precision}"] = figures
    printed(found, options.output)


def measured(models: Sequence[str], engine: str, precision: str, turns: int) -> dict[str, Any]:
    """Milliseconds of processor time for a view, medians over turns, and each over that of the first model.

    Raises:
        MetaqapError: the engine does not run one of the models here.
    """
    scorers = [Scorer(model, device="cpu", engine=engine, precision=precision) for model in models]
    try:
        views = [[view[None] for view in generated(scorer.bundle.view_size, VIEWS)] for scorer in scorers]
        spent: list[list[float]] = [[] for _ in scorers]
        for _ in range(turns + 1):  # the first warms up
            for times, scorer, some in zip(spent, scorers, views, strict=True):
                start = time.process_time()
                for _ in scorer.engine.predict(enumerate(some)):
                    pass
                times.append((time.process_time() - start) / VIEWS * 1000)
        medians = [statistics.median(times[1:]) for times in spent]
    finally:
        for scorer in scorers:
            scorer.close()
    return {
        model: {"ms": round(ms, 2), "ratio": round(ms / medians[0], 3)}
        for model, ms in zip(models, medians, strict=True)
    }


if __name__ == "__main__":
    main()
