"""What a run would score, without a model."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from metaqap_fast.input import Source
from metaqap_fast.scores.committed import committed
from metaqap_fast.scores.done import Done
from metaqap_fast.scores.merge import merged
from metaqap_fast.scores.schema import escaped
from metaqap_fast.streams import counted

KEYS = 10  # shown


def preview(source: Source, output: str | None, retry_failed: bool = False) -> dict[str, Any]:
    """Counts of what a run of a source would score.

    Args:
        source: is iterated once.
        output: what the run would resume; None if it would not.
        retry_failed: whether it would score those images again that failed.
    """
    done = Done(merged(committed(output))) if output is not None else Done()
    kinds, needs, first = Counter[str](), Counter[str](), list[str]()
    for entry in source:
        kinds[_kind(entry.key)] += 1
        need = done.need(entry.key, entry.stamp().code if len(done) else 0, retry_failed)
        needs[need or "done"] += 1
        if need and len(first) < KEYS:
            first.append(escaped(entry.key))
    return {
        "images": sum(kinds.values()),
        "kinds": dict(kinds.most_common()),
        "to_score": sum(kinds.values()) - needs["done"],
        "changed": needs["changed"],
        "retried": needs["failed"],
        "done": needs["done"],
        "gone": int(len(done) - done.named.sum()),
        "left_out": dict(source.left_out),
        "first": first,
    }


def describe_preview(found: Mapping[str, Any]) -> Iterator[str]:
    """The same in lines."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in found["kinds"].items())
    yield f"{counted(found['images'], 'image')} found{f': {kinds}' if kinds else ''}"
    for kind, count in found["left_out"].items():
        yield f"  {count:,} left out: {kind}"
    why = [f"{found[name]:,} {text}" for name, text in WHY if found[name]]
    reasons = f" ({', '.join(why)})" if why else ""
    yield f"{found['to_score']:,} would be scored{reasons}"
    if found["done"]:
        yield f"{counted(found['done'], 'row')} kept from an earlier run"
    if found["gone"]:
        yield f"{counted(found['gone'], 'row')} of images that no longer exist"
    for key in found["first"]:
        yield f"  {key}"
    if found["to_score"] > len(found["first"]):
        yield "  ..."


WHY = (("changed", "changed since"), ("retried", "failed before"))


def _kind(key: bytes) -> str:
    return os.path.splitext(escaped(key).lower())[1].lstrip(".") or "without an extension"
