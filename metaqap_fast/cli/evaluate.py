"""`metaqap-fast evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from metaqap_fast.cli import shared
from metaqap_fast.errors import UsageError


@click.command(short_help="Compare scores with people's opinions.")
@click.argument("scores")
@click.option(
    "--labels",
    required=True,
    type=click.Path(),
    help="csv file with a column of image names and one of mean opinion scores (MOS).",
)
@click.option(
    "--draws",
    type=click.IntRange(min=100),
    default=1000,
    show_default=True,
    metavar="N",
    help="Number of bootstrap draws for the 95 % intervals.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
@shared.MODEL
@shared.ENGINE
@shared.DEVICE
@shared.PRECISION
def evaluate(scores: str, labels: str, draws: int, as_json: bool, **options: Any) -> None:
    """Compare scores with people's opinions: SROCC, PLCC, KROCC and RMSE.

    SCORES is a score file, or images to be scored first, to which the options from --model on apply.
    """
    import numpy as np

    from metaqap_fast.evaluation import evaluate as compare
    from metaqap_fast.evaluation import read_labels
    from metaqap_fast.review.describe import describe_evaluation
    from metaqap_fast.scores.committed import check_finished
    from metaqap_fast.scores.probe import try_out
    from metaqap_fast.streams import shown

    wanted = read_labels(labels)
    if Path(scores).suffix.lower() in (".h5", ".hdf5"):
        check_finished(scores)
        try_out(scores)
        result = compare(scores, wanted, draws)
    else:
        from metaqap_fast.scorer import score as score_sources

        table = score_sources(scores, **options)
        if np.isnan(table.score).all():
            raise UsageError(f"{scores} is neither a score file (.h5) nor images: nothing in it could be scored")
        result = compare(table, wanted, draws)
    if as_json:
        click.echo(json.dumps(result.as_dict(), allow_nan=False))
    else:
        click.echo("\n".join(map(shown, describe_evaluation(result, len(wanted), draws))))
