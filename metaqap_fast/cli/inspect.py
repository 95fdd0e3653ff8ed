"""`metaqap-fast inspect`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from metaqap_fast.options import OUTPUTS


@click.command(short_help="Show what a score file or a model holds.")
@click.argument("what", metavar="SCORES.h5|MODEL")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
def inspect(what: str, as_json: bool) -> None:
    """Show what a score file or a model bundle holds and how it was made. Works for unfinished runs too."""
    from metaqap_fast.review.describe import describe_bundle, describe_scores, read_bundle, read_scores
    from metaqap_fast.streams import shown

    is_file = Path(what).is_file() or (Path(what).suffix.lower() in OUTPUTS and not Path(what).is_dir())
    if as_json:
        click.echo(json.dumps(read_scores(what) if is_file else read_bundle(what)))
    else:
        click.echo("\n".join(map(shown, describe_scores(what) if is_file else describe_bundle(what))))
