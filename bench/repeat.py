"""Two runs of one kind: do their ratios agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from metaqap_fast.bench.figures import Section
from metaqap_fast.bench.stats import Interval

WITHIN = 0.10


def ratios(sections: Sequence[Section]) -> dict[str, float]:
    """Every ratio of a run by the row and the column that it stands in; rates and times are left out."""
    found = {}
    for section in sections:
        for row in section.rows:
            where = " ".join(str(value) for value in row if isinstance(value, (str, int)) and value != "")
            for name, value in zip(section.columns, row, strict=True):
                if isinstance(value, Interval) and (" over " in name or name.startswith("share")):
                    found[f"{where}: {name}"] = value.value
    return found


def compared(runs: Sequence[tuple[str, Sequence[Section]]]) -> Section:
    """The ratios that all runs have, the last column their largest difference from the first run's, relative."""
    tables = [ratios(sections) for _, sections in runs]
    rows: list[list[Any]] = []
    for name, first in tables[0].items():
        others = [table[name] for table in tables[1:] if name in table]
        if len(others) == len(tables) - 1:
            rows.append([name, first, *others, max(abs(value / first - 1) for value in others)])
    worst = max((float(row[-1]) for row in rows), default=0.0)
    verdict = "within" if worst <= WITHIN else "NOT within"
    return Section(
        "Repeated runs",
        ["ratio", *(name for name, _ in runs), "difference"],
        rows,
        f"Ratios are {verdict} {WITHIN:.0%} of those of the first run." if rows else "The runs share no ratio.",
    )
