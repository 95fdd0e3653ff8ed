"""Against what a user would use instead: cases and tables; the peers themselves are in `peer_works`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from metaqap_fast.bench import baselines, plots
from metaqap_fast.bench.baselines import PYIQA
from metaqap_fast.bench.figures import Figures, NoFigure, Section, cell, median, over
from metaqap_fast.bench.sampling import Case
from metaqap_fast.bench.stats import Interval
from metaqap_fast.errors import UsageError

PEERS = {
    "eager": "torch eager, one image at a time",
    "compiled": "torch.compile and DataLoader, in batches",
    "onnxruntime": "ONNX Runtime and Pillow",
    "brisque": "BRISQUE (package brisque)",
    "piqe": "PIQE (package pypiqe)",
    "laplacian": "Laplacian variance (NumPy)",
    "cleanvision": "CleanVision, its default issues",
}
MEASURES = ("brisque", "piqe", "laplacian")  # of `baselines`; so is every `pyiqa:NAME`


def chosen(names: str) -> list[str]:
    """Peers separated by commas.

    Raises:
        UsageError: none, or an unknown one.
    """
    found = [name for name in names.split(",") if name]
    known = f"one or more of {', '.join(PEERS)}, {PYIQA}NAME"
    if not found:
        raise UsageError(f"no peer given: {known}")
    for name in found:
        if name not in PEERS and not name.startswith(PYIQA):
            raise UsageError(f"unknown peer {name!r}: {known}")
    return found


def title(who: str, facts: Mapping[str, Any]) -> str:
    """As tables call a peer."""
    untrained = ", untrained" if "weights" in facts else ""
    return PEERS.get(who) or baselines.title(who) + untrained


def cases(
    sources: Mapping[str, Sequence[str]],
    peers: Sequence[str],
    precisions: Sequence[str],
    options: Mapping[str, Any],
    pythons: Mapping[str, str],
) -> list[Case]:
    """Ours in each precision and every peer, on the images of each size.

    Args:
        sources: folders by the name of their size.
        peers: see `chosen`.
        precisions: of ours.
        options: model, engine, device, count.
        pythons: interpreters of other environments, by peer.
    """
    found = []
    for size, folders in sources.items():
        every = {**options, "sources": list(folders)}
        for precision in precisions:
            labels = {"who": "ours", "size": size, "precision": precision}
            found.append(Case(f"ours {precision} {size}", "peer.ours", {**every, "precision": precision}, labels))
        for peer in peers:
            labels = {"who": peer, "size": size}
            python = pythons.get(peer, sys.executable)
            measure = peer in MEASURES or peer.startswith(PYIQA)
            work = "peer.measure" if measure else f"peer.{peer}"
            told = {**every, "measure": peer} if measure else every
            found.append(Case(f"{peer} {size}", work, told, labels, python=python))
    return found


def sections(figures: Figures) -> list[Section]:
    """One table for each size: every peer, our speed-up over it, and whether the scores agree."""
    labels = figures.labels()
    made = []
    for size in dict.fromkeys(entry["size"] for entry in labels.values()):
        here = {name: entry for name, entry in labels.items() if entry["size"] == size}
        ours = {entry["precision"]: name for name, entry in here.items() if entry["who"] == "ours"}
        reference = figures.facts(next(iter(ours.values()), "")).get("scores")
        rows, bars = [], []
        for name, entry in here.items():
            mine = entry["who"] == "ours"
            facts = figures.facts(name)
            called = f"metaqap-fast, {entry['precision']}" if mine else title(entry["who"], facts)
            rate = median(figures.rates, name)
            ratios: list[Any] = ["" if mine else over(figures.rates, own, name) for own in ours.values()]
            rows.append(
                [
                    called,
                    rate,
                    *ratios,
                    median(figures.per_thousand, name, "cpu_seconds"),
                    median(figures.peak_mb, name),
                    cell(difference, facts, reference),
                    ", ".join(f"{k} {v}" for k, v in facts.get("versions", {}).items()),
                ]
            )
            if isinstance(rate, Interval):
                bars.append((called, rate))
        columns = ["", "images/s", *(f"speed-up, {precision}" for precision in ours)]
        made.append(
            Section(
                f"The same images and the same job, {size}",
                [*columns, "CPU s / 1,000", "peak MB", "largest score difference", "versions"],
                rows,
                f"Scores are compared with ours in {next(iter(ours), 'no precision')}; other measures have none.",
                [partial(plots.bars, f"Images per second, {size}", bars)] if bars else [],
            )
        )
    return made


def summary(figures: Figures) -> Section:
    """For quoting: how many times faster ours is than each peer, on the first size."""
    full = sections(figures)[0]
    places = [0, *(i for i, name in enumerate(full.columns) if name.startswith("speed-up"))]
    rows = [[row[i] for i in places] for row in full.rows if not row[0].startswith("metaqap-fast")]
    return Section(full.title, [full.columns[i] for i in places], rows)


def difference(facts: Mapping[str, Any], reference: Sequence[float] | None) -> float:
    """Largest absolute difference of a peer's scores from ours.

    Raises:
        NoFigure: it gave none, or for another number of images.
    """
    scores = facts.get("scores")
    if not scores or reference is None:
        raise NoFigure("")
    if len(scores) != len(reference):
        raise NoFigure(f"{len(scores)} scores, not {len(reference)}")
    return float(np.nanmax(np.abs(np.subtract(scores, reference))))
