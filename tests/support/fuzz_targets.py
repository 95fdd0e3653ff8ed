"""What is fuzzed, and what must hold for any bytes: only the program's own errors, and results that make sense."""

from __future__ import annotations

import hashlib
import json
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image, ImageCms

import corpus
import crash
import other_variants
import tiff_variants
from bundles import write_bundle
from made import dng, heic, jxl
from metaqap_fast.decode.colour import colours
from metaqap_fast.decode.pixels import DECODERS
from metaqap_fast.errors import ImageError, MetaqapError, Status
from metaqap_fast.formats import read_header
from metaqap_fast.formats.format import BMP, PNM, TIFF
from metaqap_fast.formats.icc import from_cicp
from metaqap_fast.formats.icc import profile as from_chromaticities
from metaqap_fast.model import bundle as bundles
from metaqap_fast.scores.export import records
from metaqap_fast.scores.hdf5 import FORMAT, FORMAT_VERSION
from metaqap_fast.scores.probe import try_out
from metaqap_fast.scores.table import ScoreTable

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
    yield from (data for _, data, _, _ in other_variants.variants(211))


def pixels(data: bytes) -> None:
    """Any bytes that pass as TIFF, BMP or PNM are pixels of the size that was said, or an error; never a crash."""
    try:
        found = read_header(data)
    except ImageError:
        return
    if found.defect or found.decoder not in (TIFF, BMP, PNM) or found.width * found.height > 1 << 20:
        return
    decode = DECODERS[found.decoder]
    assert decode is not None
    with suppress(ImageError, ValueError, OSError, MemoryError):
        decoded = decode(memoryview(b"".join(found.parts) or data), found)
        assert decoded.shape == (found.height, found.width, 3) and decoded.dtype == np.uint8


def pixels_seeds() -> Iterator[bytes]:
    yield from (data for _, data, _, _ in tiff_variants.variants(211))
    for made in (other_variants.bmps, other_variants.run_lengths, other_variants.pnms):
        yield from (data for _, data, _, _ in islice(made(), 0, None, 37))


def heif_seeds() -> Iterator[bytes]:
    """Boxes: HEIC, AVIF, and the RAW files of Canon."""
    for made in (heic(corpus.IMAGE, icc_profile=from_cicp(12, 13)), corpus.encode(corpus.IMAGE, "AVIF")):
        yield made
        yield made[: made.index(b"mdat") + 4]
    exif = Image.Exif()
    exif[274] = 6
    frames = [corpus.IMAGE.rotate(180)]
    exact = {"quality": 100, "subsampling": "4:4:4"}
    yield corpus.encode(corpus.IMAGE, "AVIF", save_all=True, append_images=frames, **exact)
    yield corpus.encode(corpus.IMAGE, "AVIF", exif=exif)
    yield struct.pack(">I4s4sI4s", 12, b"ftyp", b"crx ", 8, b"moov") + corpus.JPEG


def jxl_seeds() -> Iterator[bytes]:
    for pixels in (corpus.PIXELS, corpus.GRAY, corpus.PIXELS.astype(np.uint16) * 257, np.stack([corpus.PIXELS] * 2)):
        yield jxl(pixels)
        yield jxl(pixels)[:40]


def gif_seeds() -> Iterator[bytes]:
    palette = corpus.IMAGE.convert("P")
    yield corpus.encode(palette, "GIF")
    yield corpus.encode(palette, "GIF", save_all=True, append_images=[palette.rotate(90)])


def raw_seeds() -> Iterator[bytes]:
    small = corpus.PIXELS[:8, :8]
    yield dng(small, corpus.IMAGE)
    yield dng(small)
    for start in (b"IIRO", b"MMOR", b"IIU\0"):
        yield start + dng(small)[4:] + corpus.JPEG
    yield b"FUJIFILMCCD-RAW ".ljust(92, b"\0") + struct.pack(">IIHHHH", 96, 1, 0x100, 4, 56, 40) + corpus.JPEG


def profile(data: bytes) -> None:
    """Any bytes are a profile that can be applied, or none; LittleCMS reads them."""
    found = colours(data)
    shown = found.rgb(corpus.PIXELS)
    assert shown.shape == corpus.PIXELS.shape and shown.dtype == np.uint8
    assert not found.note or np.array_equal(shown, corpus.PIXELS)
    if data[:1] and len(data) >= 4:  # chromaticities and a gamma, from the same bytes
        numbers = np.frombuffer(data[: len(data) // 4 * 4], "<f4")[:9].astype(float).tolist()
        if len(numbers) == 9:
            points = tuple(zip(numbers[:8:2], numbers[1:8:2], strict=True))
            with suppress(ValueError):
                assert len(from_chromaticities(points, numbers[8])) > 128
    with suppress(ImageError):
        from_cicp(len(data) % 30, sum(data[:8]) % 30)


def profile_seeds() -> Iterator[bytes]:
    yield from_cicp(12, 13)
    yield from_cicp(9, 4)
    yield ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    gray = bytearray(from_cicp(12, 13))
    gray[16:20] = b"GRAY"
    yield bytes(gray).replace(b"rTRC", b"kTRC")
    yield np.array([0.64, 0.33, 0.3, 0.6, 0.15, 0.06, 0.3127, 0.329, 2.2], "<f4").tobytes()


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
    """Any file gives a table of equal columns that can be exported, or the program's own error.

    Not fuzzed but replayed: mutated bytes test HDF5, which can hang on them, and hardly ever this program. A file
    is tried out first, as every command does.
    """
    path = FOLDER / "scores.h5"
    path.write_bytes(data)
    try:
        try_out(path)
        read(path)
    except MetaqapError as error:
        assert str(error)


def read(path: Path) -> None:
    table = ScoreTable.read(path)
    assert len({len(column) for column in (table.keys, table.score, table.status, table.error, table.members)}) == 1
    for record in records(table):
        json.dumps(record)
    assert table.members.ndim == 2 and np.asarray(table.ok).dtype == bool


# What stands in place of what belongs there: values of an attribute, types of a column.
VALUES: list[Any] = [1, -1, 2.5, "", "a", b"\xff", [], ["a"], ["a", "b", "c"], [1, 2], np.bool_(True), h5py.Empty("f4")]
TYPES: list[Any] = ["f4", "f8", "f2", "u1", "i1", "u4", "i8", "u8", ">f4", "c8", "?", "S3", [("a", "f4")],
                    h5py.string_dtype(), h5py.string_dtype("ascii", 5), h5py.vlen_dtype(np.uint8)]  # fmt: skip
COLUMN_TYPES = {"path": TYPES[13], "path_raw": TYPES[15], "score": "f4", "uncertainty": "f4", "members": "f4",
                "status": "u1", "error": TYPES[13], "width": "u4", "height": "u4", "bytes": "u8"}  # fmt: skip
ATTRIBUTES = {**crash.FakeScorer().describe(), "format": FORMAT, "format_version": FORMAT_VERSION}


def table(data: bytes) -> None:
    """Any well-formed HDF5 file, likewise: each byte that is not 0 puts something in another thing's place."""
    rest = iter(data)

    def choose(options: Sequence[Any], right: Any) -> Any:
        number = next(rest, 0)
        return options[(number - 1) % len(options)] if number else right

    path = FOLDER / "table.h5"
    with h5py.File(path, "w") as file:
        for name, value in ATTRIBUTES.items():
            if (found := choose([None, *VALUES], value)) is not None:
                file.attrs[name] = found
        group = file.create_group(choose(["score", "scores/a"], "scores"))
        rows = choose(range(5), 2)
        for name, dtype in COLUMN_TYPES.items():
            dtype, wide = choose([None, *TYPES], dtype), name == "members"
            shape = choose([(), (rows + 1,), (rows, 2), (rows, 3), (0,), (1 << 40,)], (rows, 2) if wide else (rows,))
            if dtype is None:
                continue
            column = group.create_dataset(name, shape, dtype, chunks=(4096,) if shape == (1 << 40,) else None)
            content = choose(range(256), 0)
            text = h5py.check_string_dtype(column.dtype) is not None
            if 0 < column.size < 100 and not column.dtype.hasobject:  # h5py crashes on other objects than it expects
                column[...] = np.full(column.shape, content).astype(column.dtype, casting="unsafe")
            elif 0 < column.size < 100 and text:
                column[...] = "xé"[: content % 3] * content
    try:
        read(path)
    except MetaqapError as error:
        assert str(error)


def table_seeds() -> Iterator[bytes]:
    yield bytes(8)
    rng = np.random.default_rng(0)
    for share in (0.02, 0.1, 0.3):
        yield bytes(np.where(rng.random(60) < share, rng.integers(1, 256, 60), 0).tolist())


def score_seeds() -> Iterator[bytes]:
    from metaqap_fast.scores.store import Store

    for count in (0, 3):
        out = FOLDER / f"seed{count}.h5"
        store = Store(out, crash.FakeScorer().describe())
        for i in range(count):
            store.add(crash.row(b"%d" % i))
        store.finish()
        yield out.read_bytes()


Target = tuple[Callable[[bytes], None], Callable[[], Iterator[bytes]]]
FUZZED: dict[str, Target] = {
    "header": (header, header_seeds),
    "pixels": (pixels, pixels_seeds),
    "heif": (header, heif_seeds),
    "jxl": (header, jxl_seeds),
    "gif": (header, gif_seeds),
    "raw": (header, raw_seeds),
    "profile": (profile, profile_seeds),
    "bundle": (bundle, bundle_seeds),
    "table": (table, table_seeds),
}
TARGETS = {**FUZZED, "scores": (scores, score_seeds)}
