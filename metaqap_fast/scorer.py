"""The five stages in overlap: read, decode, predict, combine, and whoever consumes the rows.

This is the hot path; it reads top to bottom. Each stage is a generator, `overlap` gives it a thread and a
bounded queue, and memory is bounded by the queues whatever the number of images.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from metaqap_fast import decode
from metaqap_fast import engine as engines
from metaqap_fast.decode import DecodeOptions, Limits
from metaqap_fast.errors import ImageError, Status, UsageError
from metaqap_fast.infer import scored
from metaqap_fast.input import open_sources
from metaqap_fast.input.reading import read_all
from metaqap_fast.model import bundle as bundles
from metaqap_fast.options import (
    BATCH_SIZE,
    GPU_BATCH_SIZE,
    MAX_BYTES,
    MAX_MEMORY,
    MAX_PIXELS,
    MAX_SECONDS,
    MODEL,
    OLD_VIEWS,
    VIEWS,
    Views,
)
from metaqap_fast.overlap import overlap
from metaqap_fast.records import Decoded, Encoded, Entry, Row, Scored
from metaqap_fast.scores.table import ScoreTable
from metaqap_fast.trace import Trace, steps


class Scorer:
    """Scores images; keep it and call it again, the model stays compiled.

    Args:
        model: a shipped bundle's name or a bundle's folder.
        engine: `auto`, `tensorrt`, `native`, `openvino` or `torch`.
        device: `auto`, `cpu` or `cuda:N`.
        precision: `auto`, `fp32`, `bf16`, `fp16` or `int8`.
        views: `fit` (as shown on a screen) or `unscaled` (a grid of crops at full resolution).
        batch_size: images decoded together; never changes a score.
        max_pixels: larger images get the status `too_large` and are not decoded.
        max_bytes: the same for the size of the file.
        max_seconds: the same for the time that one image takes to decode.
        max_memory: the same for the memory that it takes, in bytes beyond what the decoding process has anyway.
        isolate: decode in a supervised process; without it an image that crashes a C library ends the program,
            and `max_seconds` and `max_memory` are not kept.

    Raises:
        UsageError: an unknown model, engine, device, precision or view mode.
        MetaqapError: a damaged bundle, or a library that is missing.

    Not thread-safe: one call at a time.
    """

    def __init__(
        self,
        model: str = MODEL,
        *,
        engine: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        views: str = "fit",
        batch_size: int | None = None,
        max_pixels: int = MAX_PIXELS,
        max_bytes: int = MAX_BYTES,
        max_seconds: float = MAX_SECONDS,
        max_memory: int = MAX_MEMORY,
        isolate: bool = True,
    ) -> None:
        views = OLD_VIEWS.get(views, views)
        if views not in VIEWS:
            raise UsageError(f"unknown views {views!r}: one of {', '.join(VIEWS)}")
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"batch size {batch_size}: at least 1")
        self.bundle = bundles.load(model)
        self.views: Views = views
        self.max_bytes = max_bytes
        self.trace: Trace | None = None
        gpu = engines.gpu_for(engine, device)
        self.batch_size = batch_size or (BATCH_SIZE if gpu is None else GPU_BATCH_SIZE)
        options = DecodeOptions(self.bundle.view_size, self.views, self.batch_size, max_pixels)
        limits = Limits(max_seconds, max_memory) if isolate else None
        self.decoder = decode.create(options, gpu=gpu, limits=limits)  # starts while the engine compiles
        self.engine = engines.create(self.bundle, engine, device, precision)

    def stream(self, entries: Iterable[Entry]) -> Generator[Row]:
        """Score files; yields one row for each, in order, as they get ready. Close it to stop early."""
        files = steps(self.trace, "read", read_all(entries, 2 * max(self.batch_size, BATCH_SIZE), self.max_bytes))
        yield from self._rows(self.decoder.stream(files))

    def score(self, *sources: str | os.PathLike[str]) -> ScoreTable:
        """Score folders, files, globs or `@list.txt`, in the order of the sorted keys."""
        return self._table(self.stream(open_sources(sources)))

    def score_bytes(self, images: Sequence[bytes]) -> ScoreTable:
        """Score encoded images (whole files as bytes), in the order given; keys are 0, 1, 2, ..."""
        encoded = (Encoded(str(i).encode(), data) for i, data in enumerate(images))
        return self._table(self._rows(self.decoder.stream(encoded)))

    def score_arrays(self, images: Sequence[NDArray[np.uint8]]) -> ScoreTable:
        """Score decoded images, each [H, W, 3] uint8 RGB of any size, in the order given.

        Raises:
            UsageError: an array of another shape or dtype; the message names its index.
        """
        for i, image in enumerate(images):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise UsageError(f"images[{i}] is {image.dtype} {list(image.shape)}, not uint8 [H, W, 3]")
        named = ((str(i).encode(), image) for i, image in enumerate(images))
        return self._table(self._rows(self.decoder.stream_arrays(named)))

    def close(self) -> None:
        """Release threads, device memory and the decoding process."""
        self.engine.close()
        self.decoder.close()

    def _rows(self, decoded: Iterator[Decoded]) -> Iterator[Row]:
        with (
            closing(overlap(steps(self.trace, "decode", decoded), self.batch_size, _nbytes)) as images,
            closing(overlap(steps(self.trace, "infer", self._scored(images)), 64)) as predicted,
        ):
            for image, result in predicted:
                yield self._row(image, result)

    def _scored(self, images: Iterable[Decoded]) -> Iterator[tuple[Decoded, Scored]]:
        return scored(self.engine, ((image, image.views) for image in images), self.bundle.meta)

    def _row(self, image: Decoded, result: Scored) -> Row:
        error = image.error
        if error is None and not np.isfinite(result.members).all():
            error = ImageError(Status.engine_error, "the engine gave a prediction that is not a number")
        return Row(
            key=image.key,
            score=np.nan if error else result.score,
            uncertainty=np.nan if error else result.uncertainty,
            members=result.members,
            status=error.status if error else Status.ok,
            error=error.reason if error else "",
            width=image.width,
            height=image.height,
            nbytes=image.nbytes,
        )

    def describe(self) -> dict[str, object]:
        """What decides the scores: recorded in every score file, and compared before a run is resumed."""
        meta, document = self.bundle.meta, self.bundle.document
        return {
            "bundle": self.bundle.name,
            "bundle_digest": self.bundle.digest,
            "members": [member.name for member in self.bundle.members],
            "meta_learner_weights": list(meta.weights),
            "meta_learner_intercept": meta.intercept,
            "score_range": [0.0, 1.0],
            "score_direction": "higher is better",
            "score_scale": str(document.get("score_scale", "")),
            "engine": self.engine.name,
            "precision": self.engine.precision,
            "device": self.engine.device,
            "preprocessing": f"views={self.views}, view size {self.bundle.view_size}",
        }

    def _table(self, rows: Iterator[Row]) -> ScoreTable:
        return ScoreTable.from_rows(list(rows), self.describe())


def _nbytes(image: Decoded) -> int:
    return int(image.views.nbytes)


def score(sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], **options: object) -> ScoreTable:
    """Score images once; see `Scorer` for the options and `Scorer.score` for the sources.

    Raises:
        UsageError: a source that does not exist.
    """
    if isinstance(sources, (str, os.PathLike)):
        sources = [sources]
    scorer = Scorer(**options)  # type: ignore[arg-type]
    try:
        return scorer.score(*sources)
    finally:
        scorer.close()
