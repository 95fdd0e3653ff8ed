"""`metaqap-fast export`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Write scores as csv, jsonl or parquet.")
@click.argument("scores", type=click.Path(), metavar="SCORES.h5")
@click.argument("out", type=click.Path())
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@click.option(
    "--like",
    metavar="SOURCE",
    help="Write one parquet file for each archive in SOURCE, 00000.parquet for 00000.tar, into the folder OUT.",
)
def export(scores: str, out: str, overwrite: bool, like: str | None) -> None:
    """Write the rows of a score file to OUT, whose name ends in .csv, .jsonl or .parquet."""
    from metaqap_fast.errors import UsageError
    from metaqap_fast.scores.committed import check_finished
    from metaqap_fast.scores.export import export as write
    from metaqap_fast.scores.probe import try_out
    from metaqap_fast.scores.sidecars import export_like
    from metaqap_fast.signals import as_exceptions
    from metaqap_fast.streams import counted, shown

    if like is None and Path(out).exists() and not overwrite:
        raise UsageError(f"{out} exists; give --overwrite or another name")
    check_finished(scores)
    try_out(scores)
    with as_exceptions():  # nothing half-written is left
        if like is None:
            files, count = 1, write(scores, out)
        else:
            files, count = export_like(scores, out, like, overwrite)
    where = shown(out) if like is None else f"{counted(files, 'file')} in {shown(out)}"
    click.echo(f"{counted(count, 'row')} written to {where}", err=True)
