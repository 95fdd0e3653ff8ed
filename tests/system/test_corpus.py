"""Hostile and odd images: what each kind gives is our table, by whichever decoder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import corpus
from metaqap_fast.decode import DecodeOptions, Limits, create
from metaqap_fast.decode.supervisor import Supervisor
from metaqap_fast.errors import ImageError, Status
from metaqap_fast.formats import read_header
from metaqap_fast.records import Encoded

S = 64
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    supervisor = Supervisor(DecodeOptions(S, batch_size=1), Limits(max_seconds=60))
    yield supervisor
    supervisor.close()


def test_every_kind_gives_what_the_table_says(supervisor: Supervisor) -> None:
    wrong = []
    table = corpus.kinds()
    results = supervisor.stream(Encoded(name.encode(), kind[0]) for name, kind in table.items())
    for (name, (_, status, _, pixels, tolerance)), result in zip(table.items(), results, strict=True):
        found = result.error.status if result.error else Status.ok
        if found != status:
            wrong.append((name, found.name, str(result.error)))
        elif pixels is not None:
            shown = result.views[0][: pixels.shape[0], : pixels.shape[1]].astype(int)
            difference = float(np.abs(shown - pixels).mean())
            if difference > tolerance:
                wrong.append((name, difference, ""))
    assert not wrong
    assert supervisor.restarts == 0


def status_by_rule(data: bytes) -> Status:
    """Before any decoder is asked."""
    try:
        return Status.corrupt if read_header(data).defect else Status.ok
    except ImageError as error:
        return error.status


WHOLE = {
    "JPEG": {"quality": 60},
    "JPEG progressive": {"quality": 60, "progressive": True},
    "JPEG restart": {"quality": 60, "restart_marker_blocks": 2},
    "PNG": {},
    "WEBP": {"quality": 50},
    "WEBP lossless": {"lossless": True},
    "TIFF": {},
    "TIFF LZW": {"compression": "tiff_lzw"},
    "BMP": {},
    "PPM": {},
    "JPEG2000": {"quality_layers": [20], "irreversible": True},
}


def whole(name: str) -> bytes:
    return corpus.encode(corpus.IMAGE, name.split()[0], **WHOLE[name])


@pytest.mark.parametrize("name", WHOLE)
def test_every_truncation_is_seen_before_decoding(name: str) -> None:
    data = whole(name)
    assert status_by_rule(data) == Status.ok
    statuses = [status_by_rule(data[:n]) for n in range(len(data))]
    passed = [n for n, status in enumerate(statuses) if status == Status.ok]
    assert not passed, f"{len(passed)} of {len(data)}, the last at {passed[-1]}"
    assert set(statuses[32:]) == {Status.corrupt}  # once the signature is there
    assert status_by_rule(data + b"tail") == Status.ok


@pytest.mark.parametrize("name", ["JPEG", "JPEG restart", "PNG", "WEBP", "TIFF", "BMP"])
def test_every_truncation_given_to_the_decoder_anyway(
    name: str, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second line of defence: what gets past the rule kills nothing. A new end is put where files have one."""
    data = whole(name)
    cuts = [data[:n] for n in range(40, len(data), max(1, len(data) // 150))]
    if name.startswith("JPEG"):
        cuts = [cut + b"\xff\xd9" for cut in cuts]
    else:
        cuts = [cut + bytes(len(data) - len(cut)) for cut in cuts]
    results = list(supervisor.stream(Encoded(b"%d" % i, cut) for i, cut in enumerate([*cuts, data])))
    assert len(results) == len(cuts) + 1 and results[-1].error is None
    assert {result.error.status for result in results if result.error} <= {Status.corrupt, Status.unsupported}
    assert supervisor.restarts == 0


@pytest.mark.parametrize("name", WHOLE)
def test_damage_anywhere_costs_only_its_image(name: str, supervisor: Supervisor) -> None:
    data, rng = whole(name), np.random.default_rng(len(name))

    def damaged() -> bytes:
        raw = np.frombuffer(data, np.uint8).copy()
        start, length = rng.integers(len(raw)), rng.integers(1, 64)
        part = raw[start : start + length]
        part[:] = [0 * part, 255 - 0 * part, part ^ 1 << rng.integers(8), rng.integers(0, 256, part.size)][
            rng.integers(4)
        ]
        return raw.tobytes()

    images = [damaged() for _ in range(60)]
    results = list(supervisor.stream(Encoded(b"%d" % i, each) for i, each in enumerate([*images, data])))
    assert results[-1].error is None and len(results) == 61
    found = [result.error.status if result.error else Status.ok for result in results]
    assert set(found) <= {Status.ok, Status.corrupt, Status.unsupported, Status.too_large}
    # Damaged JPEG 2000 crashes DALI 2.4 now and then, some images after the one that did it.
    assert name == "JPEG2000" or supervisor.restarts == 0
    again = supervisor.stream(Encoded(b"%d" % i, each) for i, each in enumerate([*images, data]))
    assert [result.error.status if result.error else Status.ok for result in again] == found


@pytest.mark.parametrize("extension", ["jpg", "png", "tif", "bmp", "webp"])
def test_the_extension_means_nothing(extension: str, tmp_path: Path) -> None:
    from metaqap_fast.input.files import Listing
    from metaqap_fast.input.reading import read_all

    for name in ("JPEG", "PNG", "TIFF", "BMP", "WebP"):
        (tmp_path / f"{name}.{extension}").write_bytes(corpus.kinds()[name][0])
    (tmp_path / f"text.{extension}").write_bytes(b"hello")
    results = list(create(DecodeOptions(S)).stream(read_all(Listing([tmp_path]))))
    assert [result.error is None for result in results] == [True] * 5 + [False]
    assert results[-1].error is not None and results[-1].error.status == Status.unsupported


def table() -> str:
    """The table in docs/images.md; the orientations and the strips are one row each."""
    lines = ["| kind | status | how, or why not |", "|---|---|---|"]
    for name, (_, status, words, _, _) in corpus.kinds().items():
        if " EXIF orientation " in name:
            name = f"{name.rpartition(' ')[0]} 1 to 8" if name.endswith("1") else ""
        if name.endswith("x20000"):
            name = f"{name.rpartition(' ')[0]} 1x20000, 20000x1"
        if (name and not name.endswith(("20000x1", "1x20000"))) or ", " in name:
            lines.append(f"| {name} | {status.name} | {words} |")
    return "\n".join(lines)


def test_the_documented_table_is_this_one() -> None:
    assert written() == (DOCS / "images.md").read_text(), "PYTHONPATH=tests/support python tests/system/test_corpus.py"


def written() -> str:
    """The page with this table in it."""
    page = (DOCS / "images.md").read_text()
    head, rest = page.split("| kind | status |", 1)
    return f"{head}{table()}\n\n{rest.split(chr(10) * 2, 1)[1]}"


if __name__ == "__main__":
    (DOCS / "images.md").write_text(written())
