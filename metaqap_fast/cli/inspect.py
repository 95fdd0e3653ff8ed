"""`metaqap-fast inspect`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("what", metavar="SCORES.h5|MODEL")
def inspect(what: str) -> None:
    """Show what a score file or a model bundle holds, and how it was made."""
    from metaqap_fast.review.describe import describe_bundle, describe_scores
    from metaqap_fast.scores.probe import try_out
    from metaqap_fast.streams import shown

    if Path(what).is_file():
        try_out(what)
        lines = describe_scores(what)
    else:
        lines = describe_bundle(what)
    click.echo("\n".join(map(shown, lines)))
