"""The benchmark of sizes: every photograph at every size that it has, against itself at 512 pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bundles import write_bundle
from metaqap_fast.bench import sizes
from metaqap_fast.train import rungs


def test_every_size_is_compared_with_512_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rungs, "PARTS", {"train": range(0), "validation": range(10), "untouched": range(10, 20)})
    folder = tmp_path / "photographs"
    folder.mkdir()
    for i, (width, height) in enumerate([(1400, 1001), (700, 600), (512, 512), (2050, 2010)]):
        level = 40 + 50 * i
        Image.new("RGB", (width, height), (level, level, level)).save(folder / f"{i}.png")
    model = write_bundle(tmp_path / "bright")
    monkeypatch.setattr(
        "sys.argv",
        ["sizes", str(folder), "--model", str(model), "--precision", "fp32", "-o", str(tmp_path / "sizes.json")],
    )
    sizes.main()
    found = json.loads((tmp_path / "sizes.json").read_text())
    assert found == json.loads(capsys.readouterr().out)
    assert {size: row["photographs"] for size, row in found["sizes"].items()} == {
        "2000": 1, "1000": 2, "512": 4, "256": 4, "128": 4,
    }  # fmt: skip
    for row in found["sizes"].values():  # of one colour: nothing is lost
        assert row["mean difference from 512"] == pytest.approx(0, abs=1e-4) and row["largest"] < 1e-4
    assert found["sizes"]["2000"]["mean score"] > found["sizes"]["512"]["mean score"]
    Image.new("RGB", (600, 511)).save(folder / "small.png")
    with pytest.raises(SystemExit):
        sizes.main()
    assert "small.png has fewer than 512 lines" in capsys.readouterr().err


def test_the_middle_is_taken(tmp_path: Path) -> None:
    pixels = np.zeros((600, 1200, 3), np.uint8)
    pixels[:, 300:900] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    for size, side in ((4000, 600), (512, 512)):
        (found,) = sizes.squares([tmp_path / "wide.png"], size)
        assert found.shape == (side, side, 3) and found.min() > 250
