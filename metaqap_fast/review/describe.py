"""Score files, model bundles and evaluations in words."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metaqap_fast.evaluation import Evaluation
from metaqap_fast.scores.committed import check_finished, committed, unfinished
from metaqap_fast.scores.hdf5 import open_scores, read_attributes
from metaqap_fast.scores.merge import chunks, merged
from metaqap_fast.scores.probe import try_out
from metaqap_fast.scores.totals import Totals
from metaqap_fast.streams import counted


def read_scores(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a score file holds, for JSON; of an interrupted run what is committed. In bounded memory.

    Raises:
        UsageError: there is neither.
        MetaqapError: it is damaged.
    """
    files = committed(path)
    if not files:
        check_finished(path)
        files = [Path(path)]
    try_out(*files)
    totals = Totals()
    for _ in totals.passing(chunks(files[0]) if len(files) == 1 else merged(files)):
        pass
    with open_scores(files[-1]) as file:
        attributes = read_attributes(file)
    found = {"path": os.fspath(path), "unfinished": unfinished(path) or None}
    return {**found, **totals.as_dict(), "attributes": attributes}


def describe_scores(path: str | os.PathLike[str]) -> Iterator[str]:
    """The same in lines."""
    found = read_scores(path)
    yield f"{path}: {counted(found['rows'], 'row')}, {found['scored']:,} scored"
    if found["unfinished"]:
        yield f"  not finished: {found['unfinished']}"
    for status, count in found["failed"].items():
        yield f"  {status}: {count:,}"
    if found["scored"]:
        low, mid, high = (found["percentiles"][name] for name in ("5", "50", "95"))
        yield f"  score: median {mid:.3f}, 5 % {low:.3f}, 95 % {high:.3f}"
    for name, value in found["attributes"].items():
        if value != "":
            yield f"  {name}: {value}"


def read_bundle(model: str) -> dict[str, Any]:
    """What a model bundle is, for JSON.

    Raises:
        UsageError: no such model.
        MetaqapError: it is damaged.
    """
    from metaqap_fast.model.bundle import load

    bundle = load(model)
    return {
        "model": bundle.name,
        "path": str(bundle.path),
        "digest": bundle.digest,
        "members": [
            {"name": member.name, "weight": float(weight), "bytes": member.file.stat().st_size}
            for member, weight in zip(bundle.members, bundle.meta.weights, strict=True)
        ],
        "intercept": float(bundle.meta.intercept),
        "view_size": bundle.view_size,
        "document": {name: value for name, value in bundle.document.items() if name not in ("members", "files")},
    }


def describe_bundle(model: str) -> Iterator[str]:
    """The same in lines."""
    found = read_bundle(model)
    yield f"{found['model']} at {found['path']} (digest {found['digest'][:16]})"
    for member in found["members"]:
        yield f"  {member['name']}: weight {member['weight']:+.4f}, {member['bytes'] / 1e6:.1f} MB"
    yield f"  intercept {found['intercept']:+.4f}, view size {found['view_size']}"
    yield from json.dumps(found["document"], indent=2).splitlines()


def describe_evaluation(found: Evaluation, labelled: int, draws: int) -> Iterator[str]:
    """How well scores agree with opinions, in lines; `labelled` is the number of images that have a label."""
    yield f"{found.count:,} of {counted(labelled, 'labelled image')} (95 % bootstrap intervals, {draws:,} draws)"
    for why, names in (("no row", found.missing), ("failed", found.failed)):
        if names:
            yield f"  left out, {why}: {len(names):,} ({', '.join(names[:3])}{', ...' if names[3:] else ''})"
    if found.reason:
        yield f"  {found.reason}"
    for name, (value, low, high) in found.metrics.items():
        numbers = "undefined" if math.isnan(value) else f"{value:.4f}   [{low:.4f}, {high:.4f}]"
        yield f"  {name.upper():14s} {numbers}"
