"""`metaqap-fast evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from metaqap_fast.cli import shared


@click.command()
@click.argument("scores")
@click.option(
    "--labels",
    required=True,
    type=click.Path(),
    help="csv file with a column of image names and one of mean opinion scores.",
)
@click.option(
    "--draws",
    type=click.IntRange(min=100),
    default=1000,
    show_default=True,
    metavar="N",
    help="Bootstrap draws for the 95 % intervals.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
@shared.MODEL
@shared.ENGINE
@shared.DEVICE
@shared.PRECISION
@shared.VIEWS
def evaluate(scores: str, labels: str, draws: int, as_json: bool, **options: Any) -> None:
    """Compare scores with people's opinions: SROCC, PLCC, KROCC and RMSE.

    SCORES is a score file, or images to score first. The options from --model on are for images.
    """
    from metaqap_fast.evaluate import evaluate as compare
    from metaqap_fast.evaluate import read_labels
    from metaqap_fast.scores.probe import try_out
    from metaqap_fast.scores.table import ScoreTable

    wanted = read_labels(labels)
    if Path(scores).suffix.lower() in (".h5", ".hdf5"):
        try_out(scores)
        table = ScoreTable.read(scores)
    else:
        from metaqap_fast.scorer import score as score_sources

        table = score_sources(scores, **options)
    result = compare(table, wanted, draws)
    if as_json:
        metrics = {name: dict(zip(("value", "low", "high"), v, strict=True)) for name, v in result.metrics.items()}
        document = {"images": result.count, "missing": result.missing, "failed": result.failed, **metrics}
        click.echo(json.dumps(document))
        return
    click.echo(f"{result.count} of {len(wanted)} labelled images (95 % bootstrap intervals, {draws} draws)")
    for label, names in (("no row", result.missing), ("failed", result.failed)):
        if names:
            click.echo(f"  left out, {label}: {len(names)} ({', '.join(names[:3])}{', ...' if names[3:] else ''})")
    for name, (value, low, high) in result.metrics.items():
        click.echo(f"  {name.upper():14s} {value:.4f}   [{low:.4f}, {high:.4f}]")
