"""Score files, model bundles and evaluations in words."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

from metaqap_fast.errors import Status
from metaqap_fast.evaluation import Evaluation
from metaqap_fast.streams import counted


def describe_scores(path: str) -> Iterator[str]:
    """What a score file holds, in lines."""
    import numpy as np

    from metaqap_fast.scores.table import ScoreTable

    table = ScoreTable.read(path)
    yield f"{path}: {counted(len(table), 'row')}, {int(table.ok.sum()):,} scored"
    for status in Status:
        count = int((table.status == status).sum())
        if count and status != Status.ok:
            yield f"  {status.name}: {count:,}"
    if table.ok.any():
        low, mid, high = np.percentile(table.score[table.ok], [5, 50, 95])
        yield f"  score: median {mid:.3f}, 5 % {low:.3f}, 95 % {high:.3f}"
    for name, value in table.attributes.items():
        yield f"  {name}: {value}"


def describe_bundle(model: str) -> Iterator[str]:
    """What a model bundle is, in lines."""
    from metaqap_fast.model.bundle import load

    bundle = load(model)
    yield f"{bundle.name} at {bundle.path} (digest {bundle.digest[:16]})"
    for member, weight in zip(bundle.members, bundle.meta.weights, strict=True):
        yield f"  {member.name}: weight {weight:+.4f}, {member.file.stat().st_size / 1e6:.1f} MB"
    yield f"  intercept {bundle.meta.intercept:+.4f}, view size {bundle.view_size}"
    document = {name: value for name, value in bundle.document.items() if name not in ("members", "files")}
    yield from json.dumps(document, indent=2).splitlines()


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
