"""How models order damage, on photographs that taught nothing: agreement with people, ladders, harmless changes.

    python -m metaqap_fast.bench.order PHOTOGRAPHS/ --opinions CELLS.csv [--model NAME]... [-o order.json]

PHOTOGRAPHS are the undamaged ones of `train heads`, of which only the part that it never opens is used. Each is damaged
in every way at every level, and every model sees the same pixels. See `metaqap_fast.train.trial` for the figures.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from metaqap_fast.bench.environment import describe
from metaqap_fast.bench.printed import printed
from metaqap_fast.errors import MetaqapError
from metaqap_fast.options import MODEL
from metaqap_fast.scorer import Scorer
from metaqap_fast.train import rungs
from metaqap_fast.train.opinion import F64, read_cells
from metaqap_fast.train.trial import trial

SEED = 24


def main() -> None:
    """Score every photograph in every state by every model, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--opinions", type=Path, required=True)
    parser.add_argument("--count", type=int, default=30, help="photographs")
    parser.add_argument("--model", action="append", help="a name or a folder; can be given several times")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    try:
        cells = read_cells(options.opinions)
        files = rungs.photographs(options.photographs, "untouched")[: options.count]
        found: dict[str, Any] = {"photographs": len(files), "environment": describe(), "models": {}}
        for model in options.model or [MODEL]:
            found["models"][str(model)] = order(model, files, cells, options.precision)
    except MetaqapError as error:
        parser.error(str(error))
    printed(found, options.output)


def order(model: str, files: list[Path], cells: F64, precision: str) -> dict[str, Any]:
    """One model's figures, over all kinds and for each."""
    steps = rungs.everything(len(files), SEED)
    with Scorer(model, precision=precision) as scorer:
        table = scorer.score_arrays(rungs.views(files, steps))
        digest = scorer.bundle.digest
    found = trial(steps, np.asarray(table.columns["score"], np.float64), cells)
    return {"digest": digest, **found.summary(), "adjacent": found.adjacent, "above": found.above}


if __name__ == "__main__":
    main()
