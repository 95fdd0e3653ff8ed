"""Tables that are made of several runs, for quoting: what a reader wants to know first."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from metaqap_fast.bench import peers, throughput
from metaqap_fast.bench.baselines import title
from metaqap_fast.bench.families import SETS
from metaqap_fast.bench.figures import Figures, Section, median, show
from metaqap_fast.bench.runs import RunError, read
from metaqap_fast.bench.stats import Interval


def hours(paths: Sequence[Path]) -> Section:
    """Runs of `throughput` on several machines: what the native engine needs for a million images.

    Raises:
        RunError: a folder that holds no whole run.
    """
    rows = []
    for path in paths:
        made = throughput.summary(Figures(read(path)))
        for row in (dict(zip(made.columns, row, strict=True)) for row in made.rows):
            if row["engine"] == "native":
                rows.append([row["on"], row["precision"], row["whole, images/s"], row["hours for a million"]])
    return Section(
        "Hours for a million images", ["CPU", "precision", "images a second", "hours for a million images"], rows
    )


def beside(paths: Sequence[Path]) -> Section:
    """A run of `peers`, and what `bench report --json` says of one of `accuracy`: cost and agreement side by side.

    The cost is processor time, which hardly depends on what else ran on the machine: repetitions that others disturbed
    count too, and the note says how many they were.

    Raises:
        RunError: they are not that.
    """
    try:
        run, (document,) = read(paths[0]), json.loads(paths[1].read_text())
        (table,) = [section["rows"] for section in document["sections"] if section["title"] == SETS]
        agreement: dict[str, Any] = table[0]
    except (OSError, ValueError, IndexError, KeyError, TypeError) as error:
        raise RunError(f"{', '.join(map(str, paths))}: not a run of peers and a report of accuracy ({error})") from None
    figures, rows = Figures(run, even_busy=True), []
    for name, labels in figures.labels().items():
        who, facts = labels["who"], figures.facts(name)
        mine = who == "ours"
        called = f"metaqap-fast, {labels['precision']}" if mine else peers.title(who, facts)
        found = agreement.get("SROCC" if mine else title(who))
        srocc = show(Interval(**found) if isinstance(found, dict) else found) or "not measured"
        if who == "cleanvision":
            srocc += ", of blurry"
        hours_each = median(lambda name: [value / 3.6 for value in figures.per_thousand(name, "cpu_seconds")], name)
        rows.append([called, hours_each, srocc])
    busy, done = figures.disturbed()
    note = f"Other programs were busy in {busy} of {done} repetitions" if busy else ""
    return Section("Cost and agreement", ["", "core hours for a million images", "SROCC with opinions"], rows, note)


VIEWS: dict[str, Callable[[Sequence[Path]], Section]] = {view.__name__: view for view in (hours, beside)}
