"""`metaqap-fast report`."""

from __future__ import annotations

import click


@click.command(short_help="Make a page with pictures of a score file.")
@click.argument("scores", type=click.Path(), metavar="SCORES.h5")
@click.option(
    "-o", "--output", type=click.Path(), metavar="PAGE.html", help="The page to write.  [default: SCORES.html]"
)
@click.option("--images", metavar="ROOT", help="Where the scored folder is now, if it was moved.")
@click.option("--no-pictures", is_flag=True, help="Make the page without thumbnails. No image is read, so it is quick.")
@click.option("--overwrite", is_flag=True, help="Replace an existing page.")
def report(scores: str, output: str | None, images: str | None, no_pictures: bool, overwrite: bool) -> None:
    """Write an HTML page about a score file: the distribution of scores, failures, the worst and the best images.

    The page is one file, needs no network, and stays under 5 MB.
    """
    from metaqap_fast.review.report import default_name
    from metaqap_fast.review.report import report as write
    from metaqap_fast.signals import as_exceptions
    from metaqap_fast.streams import counted, shown

    output = output or default_name(scores)
    with as_exceptions():  # nothing half-written is left
        missing = write(scores, output, images, not no_pictures, overwrite)
    if missing:
        click.echo(f"{counted(missing, 'thumbnail')} missing; the page says why", err=True)
    click.echo(f"Wrote {shown(output)}", err=True)
