"""The bulk command, over a few files: what it calls right, wrong and refused."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import corpus
import viewers
from metaqap_fast.decode.supervisor import Supervisor
from metaqap_fast.records import Decoded, Encoded

TESTS = Path(__file__).parents[1]
LACKING = [name for name in ("cv2", "pyvips") if importlib.util.find_spec(name) is None]
needs_viewers = pytest.mark.skipif(bool(LACKING), reason=f"NOT COMPARED: {', '.join(LACKING)} not installed")


@needs_viewers
def test_viewers_show_a_turned_picture_alike() -> None:
    shown = viewers.shown(corpus.turned("PNG", 6), 1 << 20)
    assert set(shown) == {"pillow", "opencv", "libvips"}
    for name, pixels in shown.items():
        assert np.array_equal(pixels, np.rot90(corpus.PIXELS, -1)), name


@pytest.mark.full
@needs_viewers
def test_what_the_bulk_command_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(TESTS))
    import bulk

    kinds = corpus.kinds()
    for name in ("JPEG", "TIFF in planes", "TIFF CMYK", "PNG with a wrong checksum", "TIFF float"):
        (tmp_path / f"{name}.tif").write_bytes(kinds[name][0])
    (tmp_path / "notes.txt").write_text("no image")
    real = Supervisor.stream

    def lying(self: Supervisor, images: Iterable[Encoded]) -> Iterator[Decoded]:
        """Of the JPEG, the negative."""
        for image, decoded in zip(images := list(images), real(self, images), strict=True):
            negative = image.data == kinds["JPEG"][0]
            yield replace(decoded, result=255 - decoded.views) if negative else decoded

    monkeypatch.setattr(Supervisor, "stream", lying)
    monkeypatch.setattr(sys, "argv", ["bulk", str(tmp_path), "--json", str(tmp_path / "rows.jsonl")])
    bulk.main()
    records = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert {Path(record["path"]).stem: (record["status"], record["verdict"]) for record in records} == {
        "JPEG": ("ok", "wrong"), "TIFF in planes": ("ok", "right"), "TIFF CMYK": ("ok", "right"),
        "PNG with a wrong checksum": ("corrupt", "not ok, nor shown alike by two"),
        "TIFF float": ("unsupported", "not ok, nor shown alike by two"),
    }  # fmt: skip
    out = capsys.readouterr().out
    assert out.startswith(f"wrong {tmp_path / 'JPEG.tif'} ok") and "\n5 files\n" in out
    assert out.endswith("1 ok with another picture, 0 called corrupt that two viewers show\n")
