"""Small images: an uncertainty that grows as they get smaller, and `too_small` on request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from images import encode
from metaqap_fast import Scorer, Status
from metaqap_fast.model import bundle as bundles
from metaqap_fast.model.meta import widened

META = bundles.load("default").meta
LAST = META.small_variance[-1][0]


@given(st.integers(1, 600), st.integers(1, 600), st.floats(0.0, 0.5))
def test_smaller_is_never_surer(a: int, b: int, uncertainty: float) -> None:
    small, large = sorted((a, b))
    assert widened(uncertainty, small, 0.0, META) >= widened(uncertainty, large, 0.0, META) >= uncertainty
    if large >= LAST:
        assert widened(uncertainty, large, 0.0, META) == uncertainty  # to the bit


def test_the_measured_sizes() -> None:
    """At each size that was measured it is the variance that was missing there, and the points are those documented."""
    assert LAST == 512
    for side, variance in META.small_variance:
        assert widened(0.05, int(side), 0.0, META) == pytest.approx((0.05**2 + variance) ** 0.5, abs=1e-12)
    assert widened(0.0, 1, 0.0, META) == widened(0.0, 32, 0.0, META) == pytest.approx(META.small_variance[0][1] ** 0.5)
    between = dict(META.small_variance)
    assert widened(0.0, 80, 0.0, META) ** 2 == pytest.approx((between[64] + between[96]) / 2)
    card = (bundles.MODELS / "default" / "README.md").read_text()
    for side, variance in META.small_variance[:-1]:
        assert f"| {side:.0f} | " in card and f" {variance**0.5:.3f} |" in card


@pytest.mark.parametrize(
    "points", [[[64, 0.1], [32, 0.0]], [[32, 0.1], [64, 0.2], [512, 0.0]], [[32, 0.1], [512, 0.01]],
               [[0, 0.1], [9, 0.0]], [[32, -0.1], [512, 0.0]], [[32, float("nan")], [512, 0.0]], []],
)  # fmt: skip
def test_a_damaged_line(points: list[list[float]], bundle: Path, tmp_path: Path) -> None:
    import json
    import shutil

    copy = shutil.copytree(bundle, tmp_path / "copy")
    document = json.loads((copy / "bundle.json").read_text())
    document["meta_learner"]["small_variance"] = points
    (copy / "bundle.json").write_text(json.dumps(document))
    with pytest.raises(bundles.BundleError, match="damaged"):
        bundles.load(copy)


def test_too_small_is_a_row_of_its_own(bundle: Path, photo: Image.Image, cli: Any, tmp_path: Path) -> None:
    with Scorer(bundle, precision="fp32", engine="openvino", min_size=48) as scorer:
        sizes = ((48, 200), (47, 200), (200, 47), (48, 48))
        images = [encode(photo.resize(size), "PNG") for size in sizes]
        table = scorer.score_bytes(images)
        assert list(table.status) == [Status.ok, Status.too_small, Status.too_small, Status.ok]
        assert table.error[1] == "47x200 pixels, under --min-size 48" and np.isnan(table.score[1])
        assert (table.width[2], table.height[2]) == (200, 47)
        again = scorer.score_arrays(np.asarray(photo.resize(size)) for size in sizes)
        assert list(again.status) == list(table.status)


def test_the_command_line(bundle: Path, photo: Image.Image, cli: Any, tmp_path: Path) -> None:
    photo.resize((40, 40)).save(tmp_path / "a.png")
    out = tmp_path / "s.csv"
    arguments = ("score", tmp_path / "a.png", "--model", bundle, "-o", out, "--min-size", 64, "--engine", "openvino")
    result = cli(*arguments, "--precision", "fp32", "--quiet")
    assert result.exit_code in (0, 3, 5), result.stderr
    assert "too_small" in out.read_text() and "under --min-size 64" in out.read_text()
