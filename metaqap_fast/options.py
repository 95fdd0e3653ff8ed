"""Every name, choice, default and limit, once: the command line and the library read them here.

Imports nothing heavy, so that `--help` is quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

MODEL = "default"

EngineName = Literal["auto", "tensorrt", "native", "openvino", "torch"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
ENGINE: EngineName = "auto"

Precision = Literal["auto", "fp32", "bf16", "fp16", "int8", "fp8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
PRECISION: Precision = "auto"

DEVICE = "auto"

Raw = Literal["preview", "develop"]
RAWS: tuple[Raw, ...] = get_args(Raw)
RAW: Raw = "preview"

# How a run treats an output that exists.
OutputMode = Literal["new", "resume", "overwrite"]
OUTPUT = "scores.h5"
HDF5 = (".h5", ".hdf5")  # names of score files end so
OUTPUTS = (*HDF5, ".csv", ".jsonl", ".parquet")  # and those of all that rows are written to

BATCH_SIZE = 16  # images decoded together on a CPU
GPU_BATCH_SIZE = 64  # and on a GPU

MIN_SIZE = 1  # pixels of an image's shorter side; with fewer its row says `too_small`

# Limits of one image; beyond them its row says `too_large`.
MAX_PIXELS = 200_000_000
MAX_BYTES = 1 << 29  # of the file
MAX_SECONDS = 60.0  # to decode it
MAX_MEMORY = 1 << 32  # bytes, to decode it; the largest JPEG 2000 of 200 million pixels takes 3 GB
PIXEL_BYTES = 16  # of them that a pixel can take: JPEG 2000 takes the most

# Rows are committed to disk at whichever comes first.
ROWS_PER_PART = 4000
SECONDS_PER_PART = 10.0

# Exit statuses of a run that came to its end; cli/__init__.py has the others.
FINE, TOO_MANY_FAILED, NOTHING_SCORED = 0, 3, 5


@dataclass(frozen=True, slots=True)
class Some:
    """Some images: a number of them, or percent of all."""

    number: float
    is_percent: bool = False

    def of(self, images: int) -> float:
        """How many of so many."""
        return self.number * images / 100 if self.is_percent else self.number


@dataclass(frozen=True, slots=True)
class Shard:
    """Which share of a source: number `index`, from 0, of `count`."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


# Bits of two perceptual hashes that differ, at most, where images look alike; and where they were taken together, too.
DISTANCE, BURST_DISTANCE = 4, 10

# XMP labels of images that were chosen for being bad, or good: the colours that programs for photographs know.
LABELS: dict[bool | None, str] = {True: "Red", False: "Green"}
