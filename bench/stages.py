"""Each stage of a run alone, and the whole: works for `job`.

Options: sources, count, model, engine, device, precision, batch_size, member (inference: that one alone), cold
(read: without the page cache).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaqap_fast import engine as engines
from metaqap_fast.bench.images import First
from metaqap_fast.bench.job import Work
from metaqap_fast.decode import DecodeOptions, Decoder, Limits
from metaqap_fast.decode import create as create_decoder
from metaqap_fast.engine.choice import choose
from metaqap_fast.engine.protocol import Engine
from metaqap_fast.errors import MetaqapError, Status, UsageError
from metaqap_fast.infer import scored
from metaqap_fast.input.files import File, Listing
from metaqap_fast.input.reading import read_all
from metaqap_fast.model import bundle as bundles
from metaqap_fast.model.bundle import Bundle
from metaqap_fast.options import BATCH_SIZE, GPU_BATCH_SIZE
from metaqap_fast.records import Decoded, Encoded, Row
from metaqap_fast.run import run
from metaqap_fast.scorer import Scorer
from metaqap_fast.scores.store import Store

STAGES = ("listing", "reading", "decode", "inference", "combine", "write", "whole")
VIEWS = 32  # different views that inference is given in turn
WARM = 8  # images
ROWS = 2000  # that combine and write are timed on

Options = dict[str, Any]


def listing(options: Options) -> Work:
    """Names found and sorted."""
    sources = options["sources"]
    return Work(lambda: float(sum(1 for _ in Listing(sources))))


def reading(options: Options) -> Work:
    """Files to bytes, from the page cache unless `cold`."""
    entries = _entries(options)

    def work() -> float:
        if options.get("cold"):
            forget(entries)
        return _exhaust(read_all(entries))

    size = sum(os.stat(entry.path).st_size for entry in entries)
    return Work(work, facts={"bytes_per_image": size / len(entries)})


def decode(options: Options) -> Work:
    """Bytes in memory to views, in the supervised process as in a run; a GPU's lanes with a GPU."""
    bundle, encoded = bundles.load(options["model"]), list(read_all(_entries(options)))
    decoder = _decoder(bundle, options)
    facts: dict[str, Any] = {}

    def work() -> float:
        good = sum(image.error is None for image in decoder.stream(iter(encoded)))
        if not good:
            raise MetaqapError("none of the images can be decoded")
        facts["decoded"] = good / len(encoded)
        return float(len(encoded))

    return Work(work, lambda: _exhaust(decoder.stream(iter(encoded[:WARM]))), decoder.close, facts=facts)


def inference(options: Options) -> Work:
    """Views in memory to predictions."""
    bundle = bundles.load(options["model"])
    bundle = alone(bundle, options["member"]) if options.get("member") else bundle
    views = _views(bundle, options)
    engine = engines.create(bundle, options["engine"], options["device"], options["precision"])
    count = options["count"] or len(views)

    def work(images: int = count) -> float:
        return _exhaust(engine.predict((i, views[i % len(views)]) for i in range(images)))

    facts = {
        "engine": engine.name,
        "precision": engine.precision,
        "device": engine.device,
        "views_per_image": float(np.mean([len(views[i % len(views)]) for i in range(count)])),
    }
    return Work(work, lambda: work(min(count, WARM)), engine.close, facts=facts)


def combine(options: Options) -> Work:
    """Predictions in memory to scores and uncertainties, on the host."""
    bundle = bundles.load(options["model"])
    predictions = np.random.default_rng(0).random((ROWS, 1, bundle.readout.columns), np.float32)
    nothing: NDArray[np.uint8] = np.empty(0, np.uint8)
    stored = _Stored(predictions)
    return Work(lambda: _exhaust(scored(stored, ((i, nothing) for i in range(ROWS)), bundle.meta, bundle.readout)))


class _Stored(Engine):
    """An engine that knows its predictions already."""

    name, precision, device = "stored", "fp32", "cpu"

    def __init__(self, predictions: NDArray[np.float32]) -> None:
        self._predictions = predictions

    def predict(self, items: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, NDArray[np.float32]]]:
        """What it knows, by the tag."""
        return ((tag, self._predictions[tag]) for tag, _ in items)


def write(options: Options) -> Work:
    """Rows in memory to a merged score file, synced to the disk."""
    bundle = bundles.load(options["model"])
    members = np.zeros(len(bundle.members), np.float32)
    rows = [Row(b"folder/%08d.jpg" % i, 0.5, 0.1, members, Status.ok, "", 512, 512, 1) for i in range(ROWS)]
    attributes = {"bundle": bundle.name, "members": [member.name for member in bundle.members]}
    facts: dict[str, Any] = {}

    def work() -> float:
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder, "scores.h5")
            store = Store(output, attributes)
            for row in rows:
                store.add(row)
            store.finish()
            facts["bytes_per_image"] = output.stat().st_size / len(rows)
        return float(len(rows))

    return Work(work, facts=facts)


def whole(options: Options) -> Work:
    """Names to a score file: what `metaqap-fast score` does."""
    scorer = Scorer(**{name: options[name] for name in ("model", "engine", "device", "precision", "batch_size")})
    facts: dict[str, Any] = {
        "engine": scorer.engine.name,
        "precision": scorer.engine.precision,
        "device": scorer.engine.device,
        "batch_size": scorer.batch_size,
        "bundle": scorer.bundle.name,
        "bundle_digest": scorer.bundle.digest,
    }

    def work(count: int | None = options["count"]) -> float:
        with tempfile.TemporaryDirectory() as folder:
            summary = run(scorer, First(options["sources"], count), os.path.join(folder, "scores.h5"))
        if not summary.scored:
            raise MetaqapError("none of the images could be scored")
        facts["scored"] = summary.scored / summary.images
        return float(summary.images)

    return Work(work, lambda: work(WARM), scorer.close, facts=facts)


WORKS: dict[str, Callable[[Options], Work]] = {
    work.__name__: work for work in (listing, reading, decode, inference, combine, write, whole)
}


def alone(bundle: Bundle, member: str) -> Bundle:
    """A bundle of one of its members.

    Raises:
        UsageError: it has no member of that name.
    """
    found = tuple(each for each in bundle.members if each.name == member)
    if not found:
        names = ", ".join(each.name for each in bundle.members)
        raise UsageError(f"{bundle.name} has no member {member!r}: one of {names}")
    meta = replace(bundle.meta, weights=(1.0,))
    return replace(bundle, name=f"{bundle.name}-{member}", members=found, meta=meta, digest="")


def forget(entries: Iterable[File]) -> None:
    """Ask the kernel to drop files from the page cache."""
    for entry in entries:
        with suppress(OSError):
            fd = os.open(entry.path, os.O_RDONLY)
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)


def _entries(options: Options) -> list[File]:
    return First(options["sources"], options["count"]).entries


def _decoder(bundle: Bundle, options: Options) -> Decoder:
    gpu = choose(options["engine"], options["device"]).gpu
    batch = options.get("batch_size") or (BATCH_SIZE if gpu is None else GPU_BATCH_SIZE)
    index = None if gpu is None else gpu.index
    return create_decoder(
        DecodeOptions(bundle.view_size, batch_size=batch, fine=bundle.fine_lines), gpu=index, limits=Limits()
    )


def _views(bundle: Bundle, options: Options) -> list[Any]:
    """Decoded once, by a process that is gone before anything is timed."""
    decoder = _decoder(bundle, options)
    try:
        images: Iterator[Encoded] = read_all(_entries(options))
        decoded: Iterator[Decoded] = (image for image in decoder.stream(images) if image.error is None)
        views = [image.views for image in islice(decoded, VIEWS)]
    finally:
        decoder.close()
    if not views:
        raise MetaqapError("none of the images can be decoded")
    return views


def _exhaust(items: Iterable[object]) -> float:
    return float(sum(1 for _ in items))
