"""`metaqap-fast explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from metaqap_fast.cli import shared
from metaqap_fast.errors import UsageError


@click.command(short_help="Show where in an image quality is lost.")
@click.argument("image", nargs=-1, required=True, type=click.Path())
@click.option(
    "--map",
    "map_path",
    type=click.Path(),
    metavar="MAP.png",
    help="Write a picture of where the image is good and where it is bad. With several images, MAP is a folder.",
)
@click.option("--overwrite", is_flag=True, help="Replace existing maps.")
@shared.MODEL
@shared.ENGINE
@shared.DEVICE
@shared.PRECISION
def explain(image: tuple[str, ...], map_path: str | None, overwrite: bool, **settings: Any) -> None:
    """Print the score of each IMAGE, the reasons if the model gives any, and where in the image quality is lost."""
    maps = _maps(image, map_path, overwrite)
    from metaqap_fast.review.explain import explain as explained
    from metaqap_fast.scorer import Scorer
    from metaqap_fast.scores.durable import replacing
    from metaqap_fast.streams import shown

    with Scorer(**settings) as scorer:
        for path in image:
            found = explained(scorer, path)
            click.echo(shown(path))
            for line in found.words():
                click.echo(f"  {line}")
            if path in maps:
                with replacing(maps[path]) as new:
                    found.image().save(new, "PNG")
                click.echo(f"  map written to {shown(str(maps[path]))}")


def _maps(images: tuple[str, ...], map_path: str | None, overwrite: bool) -> dict[str, Path]:
    """Where the map of each image goes.

    Raises:
        UsageError: a map is there already, two have one name, or the name of a single one is not that of a PNG.
    """
    if map_path is None:
        return {}
    if len(images) == 1 and not Path(map_path).is_dir():
        if Path(map_path).suffix.lower() != ".png":
            raise UsageError(f"{map_path}: the map of one image is a .png file")
        if not Path(map_path).parent.is_dir():
            raise UsageError(f"no such folder: {Path(map_path).parent}")
        maps = {images[0]: Path(map_path)}
    else:
        if Path(map_path).suffix.lower() == ".png" and not Path(map_path).is_dir():
            raise UsageError(f"{map_path}: the maps of several images go to a folder")
        maps = {image: Path(map_path, f"{Path(image).stem}.map.png") for image in images}
        if len(set(maps.values())) < len(maps):
            raise UsageError(
                f"two images have one name, and so would their maps in {map_path}: explain them one by one"
            )
        Path(map_path).mkdir(parents=True, exist_ok=True)
    for path in maps.values():
        if path.exists() and not overwrite:
            raise UsageError(f"{path} exists: give --overwrite to replace it")
    return maps
