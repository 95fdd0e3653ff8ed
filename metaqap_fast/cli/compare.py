"""`metaqap-fast compare`."""

from __future__ import annotations

import json

import click


@click.command(short_help="Show what changed between two score files.")
@click.argument("before", type=click.Path(), metavar="A.h5")
@click.argument("after", type=click.Path(), metavar="B.h5")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
def compare(before: str, after: str, as_json: bool) -> None:
    """Compare two score files: correlation, the largest changes, new failures, and images that only one of them has."""
    from metaqap_fast.review.compare import compare as read
    from metaqap_fast.review.compare import describe
    from metaqap_fast.streams import shown

    found = read(before, after)
    click.echo(json.dumps(found.as_dict()) if as_json else "\n".join(map(shown, describe(found))))
