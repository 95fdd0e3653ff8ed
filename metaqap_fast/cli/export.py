"""`metaqap-fast export`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("scores", type=click.Path(), metavar="SCORES.h5")
@click.argument("out", type=click.Path())
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def export(scores: str, out: str, overwrite: bool) -> None:
    """Write the rows of a score file to OUT, whose name ends in .csv, .jsonl or .parquet."""
    from metaqap_fast.errors import UsageError
    from metaqap_fast.scores.export import export as write
    from metaqap_fast.scores.probe import try_out
    from metaqap_fast.signals import as_exceptions
    from metaqap_fast.streams import counted, shown

    if Path(out).exists() and not overwrite:
        raise UsageError(f"{out} exists; give --overwrite or another name")
    try_out(scores)
    with as_exceptions():  # nothing half-written is left
        count = write(scores, out)
    click.echo(f"{counted(count, 'row')} written to {shown(out)}", err=True)
