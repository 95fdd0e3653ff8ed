"""Options that several commands have."""

from __future__ import annotations

from typing import Any

import click

from metaqap_fast import options

MODEL = click.option("--model", default=options.MODEL, show_default=True, help="Shipped model's name or bundle folder.")
ENGINE = click.option(
    "--engine",
    type=click.Choice(options.ENGINES),
    default="auto",
    show_default=True,
    help="native: compiled for CPUs with bf16.",
)
DEVICE = click.option(
    "--device",
    default=options.DEVICE,
    show_default=True,
    metavar="auto|cpu|cuda:N[,cuda:M...]",
    help="Several devices: a process on each (score only).",
)
PRECISION = click.option("--precision", type=click.Choice(options.PRECISIONS), default="auto", show_default=True)
VIEWS = click.option(
    "--views",
    type=click.Choice([*options.VIEWS, *options.OLD_VIEWS]),
    default="fit",
    show_default=True,
    metavar="|".join(options.VIEWS),
    help="fit: as shown on a screen; unscaled: a grid of crops at full resolution.",
)
MAX_PIXELS = click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    default=options.MAX_PIXELS,
    show_default=True,
    help="Larger images are not decoded; their rows say too_large.",
)


MAX_BYTES = click.option(
    "--max-bytes",
    type=click.IntRange(min=1),
    default=options.MAX_BYTES,
    show_default=True,
    help="Larger files are not read; their rows say too_large.",
)
MAX_SECONDS = click.option(
    "--max-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=options.MAX_SECONDS,
    show_default=True,
    help="An image that takes longer to decode is given up; its row says too_large.",
)


MAX_MEMORY = click.option(
    "--max-memory",
    type=click.IntRange(min=1),
    default=options.MAX_MEMORY,
    show_default=True,
    help="Bytes. An image that takes more to decode is given up; its row says too_large.",
)


class _BatchSize(click.ParamType):  # type: ignore[type-arg]
    name = "auto|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value == "auto":
            return None
        if str(value).isdigit() and int(value) > 0:
            return int(value)
        self.fail(f"{value!r} is neither auto nor a positive number", param, ctx)


BATCH = click.option(
    "--batch-size",
    type=_BatchSize(),
    default="auto",
    show_default=True,
    help="Images decoded together; changes no score.",
)
