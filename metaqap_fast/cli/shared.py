"""Options that several commands have."""

from __future__ import annotations

import math
import os
import re
from typing import Any

import click

from metaqap_fast import options
from metaqap_fast.errors import MetaqapError

UNITS = {"": 1, "B": 1} | {
    f"{letter}{kind}B": base**power
    for power, letter in enumerate("KMGT", 1)
    for kind, base in (("", 1000), ("i", 1024))
}


def needs(extra: str, interrupted: str = "") -> type[click.Group]:
    """A group of commands that say in one line what to install if their extra is missing.

    Args:
        extra: its name.
        interrupted: what they say after Ctrl-C.
    """

    class Group(click.Group):
        def invoke(self, ctx: click.Context) -> Any:
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt:
                if interrupted:
                    click.echo(f"metaqap-fast: {interrupted}", err=True)
                raise
            except ModuleNotFoundError as error:
                if (error.name or "").startswith("metaqap_fast"):
                    raise
                needed = f"{self.name} needs more packages: pip install 'metaqap-fast[{extra}]' ({error})"
                raise MetaqapError(needed) from None

    return Group


class Real(click.FloatRange):
    """A number in a range; nan, which is in every one, is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


class Bytes(click.ParamType):  # type: ignore[type-arg]
    """A number of bytes, at least one: 4GiB, 500 MB, 4294967296. KiB, MiB are powers of 1024; KB, MB of 1000."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", str(value).strip(), re.IGNORECASE | re.ASCII)
        units = {unit.upper(): factor for unit, factor in UNITS.items()}
        if match and match[2].upper() in units:
            number = float(match[1]) if "." in match[1] else int(match[1])
            if 1 <= (size := int(number * units[match[2].upper()])) < 2**63:
                return size
        words = "is not a size: give a number of bytes, or one with a unit, such as 500MB or 4GiB"
        self.fail(f"{value!r} {words}", param, ctx)


class SomeImages(click.ParamType):  # type: ignore[type-arg]
    """How many images: `20`, or `0.5%` of all."""

    name = "N|P%"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> options.Some:
        """The number, and of what."""
        if isinstance(value, options.Some):
            return value
        if re.fullmatch(r"\d+", value):
            return options.Some(int(value))
        if (match := re.fullmatch(r"(\d+(?:\.\d+)?) ?%", value)) and float(match[1]) <= 100:
            return options.Some(float(match[1]), is_percent=True)
        self.fail(f"{value!r} is neither a number of images nor a percentage such as 0.5%", param, ctx)


class Sharing(click.ParamType):  # type: ignore[type-arg]
    """One of several shares: `0/4` to `3/4`."""

    name = "i/n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> options.Shard:
        """The share."""
        if isinstance(value, options.Shard):
            return value
        match = re.fullmatch(r"(\d+)/(\d+)", value)
        if not match:
            self.fail(f"{value!r} is not a share: of four, the first is 0/4 and the last 3/4", param, ctx)
        index, count = int(match[1]), int(match[2])
        if index >= count:
            self.fail(
                f"{value!r}: shares are counted from 0, the last of {count} is {max(count - 1, 0)}/{count}", param, ctx
            )
        return options.Shard(index, count)


def written(size: int) -> str:
    """A number of bytes as `Bytes` reads it, in the largest unit of 1024 that it is a multiple of."""
    return next(
        f"{size // factor}{unit}"
        for unit, factor in sorted(UNITS.items(), key=lambda item: (-item[1], item[0]))
        if size % factor == 0 and (unit == "" or "i" in unit)
    )


class BatchSize(click.ParamType):  # type: ignore[type-arg]
    """A positive number, or None for `auto`."""

    name = "auto|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """The number."""
        if value == "auto":
            return None
        if re.fullmatch(r"[0-9]+", str(value)) and int(value) > 0:
            return int(value)
        self.fail(f"{value!r} is neither auto nor a positive number", param, ctx)


MODEL = click.option(
    "--model",
    default=options.MODEL,
    show_default=True,
    metavar="NAME|DIR",
    help="Model to score with: the name of a shipped one, or the folder of one that you trained.",
)
ENGINE = click.option(
    "--engine",
    type=click.Choice(options.ENGINES),
    default=options.ENGINE,
    show_default=True,
    help="Library that runs the networks. auto: the fastest that works here. Name one to find out if it is at fault.",
)
DEVICE = click.option(
    "--device",
    default=options.DEVICE,
    show_default=True,
    metavar="auto|cpu|cuda:N",
    help="Where the networks run. auto: on a GPU if one can be used, otherwise on the CPU.",
)
DEVICES = click.option(
    "--device",
    default=options.DEVICE,
    show_default=True,
    metavar="auto|cpu|cuda:N[,cuda:M...]",
    help="Where the networks run. auto: on a GPU if one can be used, otherwise on the CPU. Name several GPUs, such as "
    "cuda:0,cuda:1, to run a process on each. auto may run several processes on a fast GPU.",
)
PRECISION = click.option(
    "--precision",
    type=click.Choice(options.PRECISIONS),
    default=options.PRECISION,
    show_default=True,
    help="Arithmetic of the networks. auto: bf16 or fp16 where the device has it, otherwise fp32. Give fp32 for scores "
    "that are the same on every machine; int8 is faster and less exact.",
)
RAW = click.option(
    "--raw",
    type=click.Choice(options.RAWS),
    default=options.RAW,
    show_default=True,
    help="What of a camera's RAW file is scored. preview: the picture that the camera made, unless it is a thumbnail; "
    "develop: the data of the sensor, which is slower.",
)
MIN_SIZE = click.option(
    "--min-size",
    type=click.IntRange(min=1),
    default=options.MIN_SIZE,
    show_default=True,
    metavar="N",
    help="Do not score images whose shorter side has fewer than N pixels (status too_small). Small copies hide faults.",
)
MAX_PIXELS = click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    default=options.MAX_PIXELS,
    show_default=True,
    metavar="N",
    help="Do not decode images with more than N pixels (status too_large).",
)
MAX_BYTES = click.option(
    "--max-bytes",
    type=Bytes(),
    default=written(options.MAX_BYTES),
    show_default=True,
    help="Do not read larger files (status too_large).",
)
MAX_SECONDS = click.option(
    "--max-seconds",
    type=Real(min=0, min_open=True),
    default=options.MAX_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="Give up decoding an image after this time (status too_large). Raise it for huge images.",
)
MAX_MEMORY = click.option(
    "--max-memory",
    type=Bytes(),
    default=written(options.MAX_MEMORY),
    show_default=True,
    help="Give up decoding an image that takes more memory (status too_large). Raise it for huge images.",
)
BATCH = click.option(
    "--batch-size",
    type=BatchSize(),
    default="auto",
    show_default=True,
    help="Number of images decoded together; it changes no score. Lower it if memory is short.",
)
THREADS = click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of CPUs to use; it changes no score. Lower it to leave some for other programs.  "
    "[default: all that the process may use]",
)


def use_threads(count: int) -> None:
    """Let this process, and those that it starts, use so many of its CPUs; each library starts as many threads.

    Which ones depends on the process, so that runs beside each other do not share them all.
    """
    there = sorted(os.sched_getaffinity(0))
    first = os.getpid() % len(there)
    os.sched_setaffinity(0, {there[(first + i) % len(there)] for i in range(min(count, len(there)))})
