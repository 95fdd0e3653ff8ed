"""The five stages in overlap: read, decode, predict, combine, and whoever consumes the rows.

This is the hot path; it reads top to bottom. Each stage is a generator, `overlap` gives it a thread and a
bounded queue, and memory is bounded by the queues whatever the number of images.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict
from operator import attrgetter
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from metaqap_fast import decode, forked
from metaqap_fast import engine as engines
from metaqap_fast.decode import DecodeOptions, Limits
from metaqap_fast.engine.choice import choose
from metaqap_fast.engine.table import ENGINES, versions
from metaqap_fast.errors import ImageError, Status, UsageError, kind
from metaqap_fast.infer import scored
from metaqap_fast.input import Source, memory, named, open_sources
from metaqap_fast.input.reading import read_all
from metaqap_fast.model import bundle as bundles
from metaqap_fast.model.meta import widened
from metaqap_fast.options import (
    BATCH_SIZE,
    GPU_BATCH_SIZE,
    MAX_BYTES,
    MAX_MEMORY,
    MAX_PIXELS,
    MAX_SECONDS,
    MIN_SIZE,
    MODEL,
    RAW,
    RAWS,
)
from metaqap_fast.progress import OnProgress, reported
from metaqap_fast.records import Decoded, Entry, Row, Scored, key_order
from metaqap_fast.scores.table import ScoreTable
from metaqap_fast.trace import Trace, steps
from metaqap_fast.turns import Turns

T = TypeVar("T")
Named = str | os.PathLike[str]  # a source


class Scorer:
    """Scores images; keep it and call it again, the model stays compiled.

        with Scorer() as scorer:
            table = scorer.score("photos/")

    Args:
        model: a shipped bundle's name or a bundle's folder.
        engine: `auto`, `tensorrt`, `native`, `openvino` or `torch`.
        device: `auto`, `cpu` or `cuda:N`.
        precision: `auto`, `fp32`, `bf16`, `fp16`, `int8` or `fp8`; not every engine has every one.
        batch_size: images decoded together; never changes a score. None: 16, and 64 on a GPU.
        raw: `preview` (the camera's own picture in a RAW file, unless it is a thumbnail) or `develop` (the sensor).
        exif: also read what the camera wrote: date, camera, lens and exposure; never its place.
        min_size: images whose shorter side has fewer pixels get the status `too_small` and are not decoded.
        max_pixels: larger images get the status `too_large` and are not decoded.
        max_bytes: the same for the size of the file.
        max_seconds: the same for the time that one image takes to decode.
        max_memory: the same for the memory that it takes, in bytes beyond what the decoding process has anyway.
        isolate: decode in a supervised process; without it an image that crashes a C library ends the program,
            and `max_seconds` and `max_memory` are not kept.

    Raises:
        UsageError: an unknown model, engine, device or precision, or a limit that is no positive number.
        MetaqapError: a damaged bundle, or a library that is missing.

    Threads may share a Scorer: one call runs at a time, the others wait. `score_stream` has the Scorer until it is read
    to its end or closed: until then another call from the same thread is an error, and one from another thread waits,
    but for no more than a minute in which the stream is not read. A process that is forked must make its own Scorer.

    Every method raises UsageError after `close` and in a forked process, and MetaqapError if scoring cannot go on, for
    example because the decoding process does not start. An image that cannot be scored is a row that says why.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = MODEL,
        *,
        engine: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        batch_size: int | None = None,
        raw: str = RAW,
        exif: bool = False,
        min_size: int = MIN_SIZE,
        max_pixels: int = MAX_PIXELS,
        max_bytes: int = MAX_BYTES,
        max_seconds: float = MAX_SECONDS,
        max_memory: int = MAX_MEMORY,
        isolate: bool = True,
    ) -> None:
        for name, text in (("engine", engine), ("device", device), ("precision", precision)):
            if not isinstance(text, str):
                raise UsageError(f"{name} is {kind(text)}, not a str")
        if raw not in RAWS:
            raise UsageError(f"unknown raw {raw!r}: one of {', '.join(RAWS)}")
        if batch_size is not None:
            batch_size = _whole("batch_size", batch_size)
        max_pixels, max_bytes = _whole("max_pixels", max_pixels), _whole("max_bytes", max_bytes)
        max_memory, min_size = _whole("max_memory", max_memory), _whole("min_size", min_size)
        if not isinstance(max_seconds, (int, float)) or not max_seconds > 0:
            raise UsageError(f"max_seconds is {max_seconds!r}, not a positive number")
        forked.check()
        self.bundle = bundles.load(model)
        self.max_bytes = max_bytes
        choice = choose(engine, device)  # once, for decoder and engine
        gpu = choice.gpu.index if choice.gpu else None
        self.batch_size = batch_size or (BATCH_SIZE if gpu is None else GPU_BATCH_SIZE)
        options = DecodeOptions(
            self.bundle.view_size, self.batch_size, max_pixels, min_size, raw, exif, fine=self.bundle.fine_lines
        )
        limits = Limits(max_seconds, max_memory) if isolate else None
        self.decoder = decode.create(options, gpu=gpu, limits=limits)  # starts while the engine compiles
        try:
            self.engine = engines.create(self.bundle, engine, device, precision, choice)
        except BaseException:
            self.decoder.close()
            raise
        self._turns = Turns()
        forked.keep(self)

    def __repr__(self) -> str:
        engine = self.engine
        return f"<Scorer: model {self.bundle.name}, engine {engine.name}, {engine.precision}, {engine.device}>"

    def __enter__(self) -> Scorer:
        self._turns.check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def score(
        self, *sources: Named | Iterable[Named], image: str = "", key: str = "", progress: OnProgress | None = None
    ) -> ScoreTable:
        """Score folders, files, archives, tables, globs or `@list.txt`, in the order of the sorted keys.

        Args:
            *sources: one or several, also as one list of them.
            image: column of the images in tables; empty for the only one that holds bytes.
            key: column of the names of images in tables; empty for the number of the row.
            progress: called after every image. The files are then listed before the first is scored, to be counted.

        Raises:
            UsageError: a source that does not exist, or no source.
        """
        self._turns.check()
        return self._listed(open_sources(named(sources), image=image, key=key), progress)

    def score_stream(
        self, images: Iterable[tuple[str | bytes, bytes]], *, progress: OnProgress | None = None
    ) -> Generator[Row]:
        """Score a stream of (key, bytes of an image file); yields a row for each, in order, as they get ready.

        For images that come from an archive, a database or a network: nothing but what is in work is held in memory,
        and `images` may be endless. It is read ahead, by some dozens of images, in another thread. Close the returned
        generator to stop early. `progress` is called after every image, before its row is given out.

        Raises:
            UsageError: a pair of wrong types; the message names its index and key. Like whatever else `images` raises,
                it comes behind the rows of the images before it. Bytes that are no image are a row.
        """
        self._turns.check()
        memory.several(images, "pairs (key, bytes)", "score_stream([(key, data)])")
        pairs = memory.encoded(images, self.max_bytes)
        return reported(self._rows(self.decoder.stream, pairs), progress, images)

    def score_bytes(self, images: Iterable[bytes], *, progress: OnProgress | None = None) -> ScoreTable:
        """Score encoded images (whole files as bytes), in the order given; keys are 0, 1, 2, ...

        Raises:
            UsageError: something else than bytes; the message names its index. Bytes that are no image are a row.
        """
        self._turns.check()
        memory.several(images, "bytes", "score_bytes([data])")
        numbered = memory.numbered_bytes(images, self.max_bytes)
        return self._table(reported(self._rows(self.decoder.stream, numbered), progress, images))

    def score_arrays(self, images: Iterable[Any], *, progress: OnProgress | None = None) -> ScoreTable:
        """Score decoded images, in the order given; keys are 0, 1, 2, ...

        Each is an array [H, W] or [H, W, C] of uint8, uint16 or bool, C 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB,
        alpha), or a PIL image. It gets the score of a lossless file of it: alpha is ignored, 16 bits become 8, and the
        EXIF orientation of a PIL image is followed. `images` may be a generator, of which some dozens of images are
        held at a time.

        Raises:
            UsageError: something else; the message names its index.
        """
        self._turns.check()
        memory.several(images, "images", "score_arrays([image])")
        arrays = memory.numbered_arrays(images)
        return self._table(reported(self._rows(self.decoder.stream_arrays, arrays), progress, images))

    def stream(self, entries: Iterable[Entry], trace: Trace | None = None) -> Generator[Row]:
        """Score the entries of a `Source`; yields a row for each. What runs are made of, not a public interface.

        `trace` gets the time of each stage.
        """

        def decode(entries: Iterable[Entry]) -> Iterator[Decoded]:
            files = read_all(entries, 2 * max(self.batch_size, BATCH_SIZE), self.max_bytes)
            return self.decoder.stream(steps(trace, "read", files))

        return self._rows(decode, entries, trace)

    def close(self) -> None:
        """Release threads, device memory and the decoding process. What another thread is scoring ends with an error.

        To close twice does no harm. In a forked process it does nothing: all these are the parent's.
        """
        if self._turns.end():
            self.engine.close()
            self.decoder.close()

    def _rows(
        self,
        decode: Callable[[Iterable[T]], Iterator[Decoded]],
        items: Iterable[T],
        trace: Trace | None = None,
    ) -> Generator[Row]:
        """The stages of one call, from its first row to its end."""
        with self._turns.take() as turn:
            decoded = decode(turn.feed(items))
            images = turn.stage(steps(trace, "decode", decoded), self.batch_size, attrgetter("views.nbytes"))
            predicted = turn.stage(steps(trace, "infer", self._scored(images)), 64)
            for image, result in predicted:
                turn.rest()
                yield self._row(image, result)
                self._turns.check()
                turn.go_on()
            self._turns.check()
        if turn.failure is not None:
            raise turn.failure

    def _scored(self, images: Iterable[Decoded]) -> Iterator[tuple[Decoded, Scored]]:
        items = ((image, image.views) for image in images)
        return scored(self.engine, items, self.bundle.meta, self.bundle.readout, attrgetter("fine"))

    def _row(self, image: Decoded, result: Scored) -> Row:
        error = image.error
        if error is None and not result.finite:
            error = ImageError(Status.engine_error, "the engine gave a prediction that is not a number")
        return Row(
            key=image.key,
            score=np.nan if error else result.score,
            uncertainty=np.nan if error else self._uncertainty(image, result),
            members=result.members,
            status=error.status if error else Status.ok,
            error=error.reason if error else "",
            width=image.width,
            height=image.height,
            nbytes=image.nbytes,
            note=image.note,
            reason="" if result.worst < 0 else self.bundle.reasons[result.worst],
            reasons=result.reasons,
            hash=0 if error else image.hash,
            **(asdict(image.details) if image.details else {}),
        )

    def _uncertainty(self, image: Decoded, result: Scored) -> float:
        severity = float(result.reasons.max(initial=0.0)) if self.bundle.meta.severity_variance else 0.0
        return widened(result.uncertainty, min(image.width, image.height), severity, self.bundle.meta)

    def describe(self) -> dict[str, object]:
        """What decides the scores: recorded in every score file, and compared before a run is resumed."""
        meta, document = self.bundle.meta, self.bundle.document
        return {
            "bundle": self.bundle.name,
            "bundle_digest": self.bundle.digest,
            "members": [member.name for member in self.bundle.members],
            "reasons": list(self.bundle.reasons),
            "meta_learner_weights": list(meta.weights),
            "meta_learner_intercept": meta.intercept,
            "score_range": [0.0, 1.0],
            "score_direction": "higher is better",
            "score_scale": str(document.get("score_scale", "")),
            "engine": self.engine.name,
            "engine_version": self.engine.version or versions(ENGINES[self.engine.name].packages),
            "precision": self.engine.precision,
            "device": self.engine.device,
            "preprocessing": f"views=fit{' and fine' if self.bundle.has_fine else ''}"
            + f", view size {self.bundle.view_size}"
            + (", RAW developed" if self.decoder.options.raw == "develop" else ""),
            **({"exif": "date, camera, lens, exposure"} if self.decoder.options.exif else {}),
            "decoder": versions(decode.PACKAGES) + (" on a GPU" if self.engine.device_id is not None else ""),
        }

    def _listed(self, source: Source, progress: OnProgress | None) -> ScoreTable:
        entries = source if progress is None else list(source)
        return self._sorted(reported(self.stream(entries), progress, entries))

    def _table(self, rows: Generator[Row]) -> ScoreTable:
        with closing(rows):
            return ScoreTable.from_rows(list(rows), self.describe())

    def _sorted(self, rows: Generator[Row]) -> ScoreTable:
        """As `_table`; archives are read in their own order."""
        with closing(rows):
            return ScoreTable.from_rows(sorted(rows, key=lambda row: key_order(row.key)), self.describe())


def score(
    *sources: Named | Iterable[Named],
    image: str = "",
    key: str = "",
    progress: OnProgress | None = None,
    **options: Any,
) -> ScoreTable:
    """Score images once; to score several times, keep a `Scorer`.

    Arguments are those of `Scorer.score`, and as `options` those of `Scorer`, such as `precision="fp32"`.

    Raises:
        UsageError: a source that does not exist, or no source.
    """
    source = open_sources(named(sources), image=image, key=key)  # before the seconds that a model takes to compile
    with Scorer(**options) as scorer:
        return scorer._listed(source, progress)


def _whole(name: str, value: float) -> int:
    """A limit as a whole number; 1e9 is one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 1 or value % 1:
        raise UsageError(f"{name} is {value!r}, not a positive whole number")
    return int(value)
