"""How well reasons are told, on photographs that taught nothing, beside CleanVision and the variance of the Laplacian.

    pip install cleanvision        # optional; its versions before 0.3.7 are under AGPL-3.0
    python -m metaqap_fast.bench.reasons PHOTOGRAPHS/ BIQ2021/ --opinions CELLS.csv [-o reasons.json]

PHOTOGRAPHS are the undamaged ones of `train heads`, of which only the part that it never opens is used: each is damaged
in every way that has a reason. The untouched class are the best of BIQ2021's test photographs by opinion. All measures
see the same pixels.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.bench.baselines import Measure, cleanvision, laplacian_variance
from metaqap_fast.bench.environment import describe
from metaqap_fast.bench.printed import printed
from metaqap_fast.model.readout import NAMED
from metaqap_fast.options import MODEL
from metaqap_fast.scorer import Scorer
from metaqap_fast.train import rungs
from metaqap_fast.train.damage import KINDS, Step, View
from metaqap_fast.train.datasets import load, split
from metaqap_fast.train.diagnose import BANDS, area, banded
from metaqap_fast.train.features import middle_views
from metaqap_fast.train.material import good
from metaqap_fast.train.opinion import opinions, read_cells
from metaqap_fast.train.reasons import CAUSES, REASONS, severities
from metaqap_fast.train.rungs import Rung

F64 = NDArray[np.float64]
SEED = 20
# Which reasons each other measure is meant for.
MEANT = {
    "Laplacian variance": ("out of focus", "motion blur"),
    "CleanVision, blurry": ("out of focus", "motion blur"),
    "CleanVision, dark": ("underexposed",),
    "CleanVision, light": ("overexposed",),
}


def main() -> None:
    """Score both classes, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("biq2021", type=Path)
    parser.add_argument("--opinions", type=Path, required=True)
    parser.add_argument("--count", type=int, default=30, help="photographs that are damaged")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    files = rungs.photographs(options.photographs, "untouched")[: options.count]
    steps = planned(len(files))
    severity = severities(steps, opinions(read_cells(options.opinions)))
    data = load("biq2021", options.biq2021)
    test = split(data).test
    pictures = [data.files[i] for i in test[good(data.mos[test])]]
    measures = others()
    with Scorer(options.model) as scorer:
        missing = [name for name in REASONS if name not in scorer.bundle.reasons]
        if missing:
            parser.error(f"{options.model} gives no reasons: {', '.join(missing)}")
        places = [scorer.bundle.reasons.index(name) for name in REASONS]
        damaged, damaged_others = given(scorer, rungs.views(files, steps), measures)
        untouched, untouched_others = given(scorer, middle_views(pictures), measures)
    found = {
        "photographs": len(files),
        "damaged images": len(steps),
        "untouched images": len(pictures),
        "reasons": table(damaged[:, places], untouched[:, places], severity),
        "beside": beside(damaged[:, places], untouched[:, places], severity, damaged_others, untouched_others),
        "any reason, of untouched": float((untouched >= NAMED).any(1).mean()),
        "environment": describe(),
    }
    printed(found, options.output)


def planned(count: int) -> list[Rung]:
    """Every kind of damage that is a reason, at every level, of `count` photographs."""
    kinds = [place for place, kind in enumerate(KINDS) if any(not name.startswith("~") for name in causes(kind.name))]
    return [
        Rung(photograph, (Step(kind, level),), SEED * 1_000_003 + photograph)
        for photograph in range(count)
        for kind in kinds
        for level in range(len(KINDS[kind].levels))
    ]


def causes(kind: str) -> Sequence[str]:
    """Of a kind of damage, see `CAUSES`."""
    return CAUSES.get(kind, ())


def given(
    scorer: Scorer, views: Iterator[View], measures: dict[str, Callable[[View], float]]
) -> tuple[F64, dict[str, F64]]:
    """Severities [n, R] of views, and what each other measure says of them, higher is worse."""
    said: dict[str, list[float]] = {name: [] for name in measures}

    def watched() -> Iterator[View]:
        for view in views:
            for name, measure in measures.items():
                said[name].append(measure(view))
            yield view

    table = scorer.score_arrays(watched())
    return table.reasons.astype(np.float64), {name: np.array(values) for name, values in said.items()}


def others() -> dict[str, Callable[[View], float]]:
    """Measures by name: worse is higher. CleanVision's are left out, and it is said, where it is not installed."""
    found: dict[str, Callable[[View], float]] = {"Laplacian variance": partial(_worse, laplacian_variance)}
    try:
        for issue in ("blurry", "dark", "light"):
            found[f"CleanVision, {issue}"] = partial(_worse, cleanvision(issue))
    except ImportError as error:
        print(f"CleanVision is not compared: {error}")
    return found


def _worse(measure: Measure, view: View) -> float:
    return -measure(view, 0)


def table(damaged: F64, untouched: F64, severity: F64) -> dict[str, dict[str, Any]]:
    """By reason: AUC in each band of severity, the share of untouched images that get it, what severe damage is."""
    found = {}
    for place, reason in enumerate(REASONS):
        row: dict[str, Any] = {
            f"AUC, {band}": area(damaged[rows, place], untouched[:, place])
            for band, rows in banded(severity[:, place]).items()
        }
        row["of untouched"] = float((untouched[:, place] >= NAMED).mean())
        severe = damaged[severity[:, place] >= BANDS["severe"][0]]
        first = np.where(severe.max(1) >= NAMED, severe.argmax(1), len(REASONS))
        shares = np.bincount(first, minlength=len(REASONS) + 1) / max(len(first), 1)
        row["severe is called"] = {
            name: round(float(share), 3) for name, share in zip([*REASONS, "none"], shares, strict=True) if share
        }
        found[reason] = row
    return found


def beside(
    damaged: F64, untouched: F64, severity: F64, damaged_others: dict[str, F64], untouched_others: dict[str, F64]
) -> dict[str, dict[str, dict[str, float]]]:
    """By other measure, reason it is meant for and band: its AUC, and ours of the same images."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, values in damaged_others.items():
        for reason in MEANT[name]:
            place = REASONS.index(reason)
            row = found.setdefault(name, {}).setdefault(reason, {})
            for band, rows in banded(severity[:, place]).items():
                row[band] = area(values[rows], untouched_others[name])
                row[f"{band}, ours"] = area(damaged[rows, place], untouched[:, place])
    return found


if __name__ == "__main__":
    main()
