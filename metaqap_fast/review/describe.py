"""Score files and model bundles in words, for `inspect`."""

from __future__ import annotations

import json

import click

from metaqap_fast.errors import Status


def describe_scores(path: str) -> None:
    """Print what a score file holds."""
    import numpy as np

    from metaqap_fast.scores.table import ScoreTable

    table = ScoreTable.read(path)
    click.echo(f"{path}: {len(table)} rows, {int(table.ok.sum())} scored")
    for status in Status:
        count = int((table.status == status).sum())
        if count and status != Status.ok:
            click.echo(f"  {status.name}: {count}")
    if table.ok.any():
        low, mid, high = np.percentile(table.score[table.ok], [5, 50, 95])
        click.echo(f"  score: median {mid:.3f}, 5 % {low:.3f}, 95 % {high:.3f}")
    for name, value in table.attributes.items():
        click.echo(f"  {name}: {value}")


def describe_bundle(model: str) -> None:
    """Print what a model bundle is."""
    from metaqap_fast.model.bundle import load

    bundle = load(model)
    click.echo(f"{bundle.name} at {bundle.path} (digest {bundle.digest[:16]})")
    for member, weight in zip(bundle.members, bundle.meta.weights, strict=True):
        click.echo(f"  {member.name}: weight {weight:+.4f}, {member.file.stat().st_size / 1e6:.1f} MB")
    click.echo(f"  intercept {bundle.meta.intercept:+.4f}, view size {bundle.view_size}")
    click.echo(json.dumps({k: v for k, v in bundle.document.items() if k not in ("members", "files")}, indent=2))
