"""`metaqap-fast merge`."""

from __future__ import annotations

import json

import click


@click.command(short_help="Make one score file of several.")
@click.argument("parts", nargs=-1, required=True, type=click.Path(), metavar="PART.h5...")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(),
    help="File to write: a score file (.h5), or .csv, .jsonl or .parquet.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@click.option("--incomplete", is_flag=True, help="Merge even if shares are missing.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON on standard output.")
def merge(parts: tuple[str, ...], output: str, overwrite: bool, incomplete: bool, as_json: bool) -> None:
    """Merge score files into one, such as those of `score --shard`.

    A PART is a score file, or the folder `NAME.h5.parts` of an interrupted run. If several files have a row for one
    image, the row of the last file counts.
    """
    from metaqap_fast.scores.combine import combine
    from metaqap_fast.signals import as_exceptions
    from metaqap_fast.streams import counted, shown

    with as_exceptions():  # nothing half-written is left
        totals = combine(parts, output, overwrite, incomplete)
    if as_json:
        click.echo(json.dumps({"output": output, **totals.as_dict()}))
    else:
        click.echo(
            f"{counted(totals.rows, 'row')} of {counted(len(parts), 'file')} written to {shown(output)}", err=True
        )
