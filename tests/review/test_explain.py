"""explain: where quality is lost, in words, in arrays and as a picture."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from metaqap_fast.errors import MetaqapError
from metaqap_fast.review.explain import explain, spread, starts
from metaqap_fast.scorer import Scorer


@pytest.mark.parametrize(("length", "side"), [(512, 512), (513, 512), (1024, 512), (1537, 512), (427, 213), (40, 32)])
def test_views_reach_from_end_to_end(length: int, side: int) -> None:
    places = starts(length, side)
    assert places[0] == 0 and places[-1] == length - side
    assert all(0 < b - a <= side // 4 + 1 for a, b in itertools.pairwise(places))


def test_a_cell_is_the_mean_of_the_views_that_it_lies_in() -> None:
    assert spread(np.full((2, 3, 1), 0.5), 4) == pytest.approx(np.full((5, 6, 1), 0.5))
    one = np.zeros((5, 5, 2))
    one[2, 3, 1] = 1
    found = spread(one, 4)
    assert found.shape == (8, 8, 2) and not found[..., 0].any()
    assert set(zip(*np.nonzero(found[..., 1]), strict=True)) == {(y, x) for y in range(2, 6) for x in range(3, 7)}
    assert found[3, 4, 1] > found[2, 3, 1] > 0
    assert spread(np.arange(4.0).reshape(2, 2, 1), 1)[..., 0].tolist() == [[0, 1], [2, 3]]


def test_the_map_follows_the_image(bundle: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    """A member of the miniature bundle is the mean of the pixels."""
    pixels = np.full((96, 192, 3), 220, np.uint8)
    pixels[:48, 128:] = 30
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with Scorer(bundle, precision="fp32") as scorer:
        found = explain(scorer, tmp_path / "a.png")
        assert found.picture.tobytes() == pixels.tobytes() and found.cell == 12
        assert found.quality.shape == (8, 16) and found.reasons.shape == (8, 16, 0)
        signed = found.quality if found.quality[0, 0] > found.quality[0, -1] else -found.quality
        assert np.unravel_index(signed.argmin(), signed.shape) in {(0, 14), (0, 15), (1, 15)}
        assert found.row.score == scorer.score(tmp_path / "a.png").score[0]
        assert any("upper right" in line for line in found.words()) and "192 x 96 pixels" in found.words()[0]
        assert found.plain().shape == pixels.shape and found.image().size == (392, 124)
        Image.new("RGB", (80, 80), "gray").save(tmp_path / "flat.png")
        assert "alike everywhere" in explain(scorer, tmp_path / "flat.png").words()
        Image.new("RGB", (1, 9)).save(tmp_path / "tiny.png")
        assert explain(scorer, tmp_path / "tiny.png").image().size[0] > 2
        (tmp_path / "bad.jpg").write_bytes(b"no image")
        with pytest.raises(MetaqapError, match=r"bad.jpg: unsupported: not an image"):
            explain(scorer, tmp_path / "bad.jpg")
        with pytest.raises(MetaqapError, match="holds more than one image"):
            explain(scorer, tmp_path)
    for map_path, words in (
        ("m.png", "map written to"),
        ("m.png", "m.png exists: give --overwrite"),
        ("m.jpg", ".png"),
    ):
        result = cli("explain", tmp_path / "a.png", "--model", bundle, "--map", tmp_path / map_path)
        assert words in result.output and result.exit_code == (0 if "written" in words else 2)
    assert Image.open(tmp_path / "m.png").size == (392, 124)
    assert sorted(path.name for path in tmp_path.glob("m*")) == ["m.png"]
    result = cli("explain", tmp_path / "a.png", tmp_path / "flat.png", "--model", bundle, "--map", tmp_path / "maps")
    assert result.exit_code == 0 and len(list((tmp_path / "maps").iterdir())) == 2
    assert cli("explain", tmp_path / "none.png", "--model", bundle).exit_code == 2


@pytest.mark.full
def test_a_blurred_part_is_found(photo: Image.Image, tmp_path: Path) -> None:
    """By the shipped model, in each corner."""
    with Scorer(precision="fp32") as scorer:
        for corner, box in (("upper left", (0, 0, 256, 256)), ("lower right", (256, 256, 512, 512))):
            image = photo.copy()
            image.paste(photo.filter(ImageFilter.GaussianBlur(4)).crop(box), box[:2])
            image.save(tmp_path / "a.png")
            found = explain(scorer, tmp_path / "a.png")
            assert f"worst at the {corner}" in "\n".join(found.words())
            rows = slice(0, 4) if box[1] == 0 else slice(4, 8)
            columns = slice(0, 4) if box[0] == 0 else slice(4, 8)
            inside = found.quality[rows, columns].mean()
            assert inside < np.median(found.quality) - 0.1
