"""What is fuzzed, and what must hold for any bytes: only the program's own errors, and results that make sense."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import corpus
import crash
import numpy as np

from conftest import write_bundle
from metaqap_fast import bundle as bundles
from metaqap_fast.errors import ImageError, MetaqapError, Status
from metaqap_fast.headers import read_header
from metaqap_fast.table import ScoreTable, records

FOLDER = Path(tempfile.mkdtemp())


def header(data: bytes) -> None:
    """Any bytes have a size and an orientation, or a reason."""
    try:
        found = read_header(data)
    except ImageError as error:
        assert error.reason and error.status in (Status.corrupt, Status.unsupported)
        return
    assert found.width > 0 and found.height > 0 and 1 <= found.orientation <= 8


def header_seeds() -> Iterator[bytes]:
    yield from (corpus.JPEG, corpus.ADOBE_CMYK, corpus.TIFF, corpus.tiff(corpus.GRAY, 1, {330: (4, [8] * 9)}))
    yield from (corpus.turned(form, 6) for form in ("JPEG", "PNG", "WEBP", "TIFF"))
    for form in ("PNG", "BMP", "PPM", "JPEG2000", "GIF"):
        yield corpus.encode(corpus.IMAGE, form)


def bundle(data: bytes) -> None:
    """Any bundle.json gives a bundle that is sound, or the program's own error."""
    folder = FOLDER / "bundle"
    if not folder.exists():
        write_bundle(folder)
    (folder / "bundle.json").write_bytes(data)
    try:
        found = bundles.load(str(folder))
    except MetaqapError as error:
        assert str(error)
        return
    assert len(found.meta.weights) == len(found.members) > 0 and 32 <= found.view_size <= 4096
    for member in found.members:
        assert member.file.parent == folder and member.file.is_file()


def bundle_seeds() -> Iterator[bytes]:
    folder = write_bundle(FOLDER / "seed")
    text = (folder / "bundle.json").read_bytes()
    yield text
    document = json.loads(text)
    ranges = json.dumps({"x": [0, 1]}).encode()
    (FOLDER / "seed" / "r.json").write_bytes(ranges)
    document["members"][0]["ranges"] = "r.json"
    document["files"]["r.json"] = hashlib.sha256(ranges).hexdigest()
    yield json.dumps(document).encode()
    yield bundles.MODELS.joinpath("default", "bundle.json").read_bytes()


def scores(data: bytes) -> None:
    """Any file gives a table of equal columns that can be exported, or the program's own error."""
    path = FOLDER / "scores.h5"
    path.write_bytes(data)
    try:
        table = ScoreTable.read(path)
    except MetaqapError as error:
        assert str(error)
        return
    assert len({len(column) for column in (table.keys, table.score, table.status, table.error, table.members)}) == 1
    for record in records(table):
        json.dumps(record)
    assert table.members.ndim == 2 and np.asarray(table.ok).dtype == bool


def score_seeds() -> Iterator[bytes]:
    from metaqap_fast.store import Store

    for count in (0, 3):
        out = FOLDER / f"seed{count}.h5"
        store = Store(out, crash.FakeScorer().describe())
        for i in range(count):
            store.add(crash.row(b"%d" % i))
        store.finish()
        yield out.read_bytes()


TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], Iterator[bytes]]]] = {
    "header": (header, header_seeds),
    "bundle": (bundle, bundle_seeds),
    "scores": (scores, score_seeds),
}
