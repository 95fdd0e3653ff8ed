"""Damaged pictures: an uncertainty that grows with the worst severity, by points that hold the errors there."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from metaqap_fast import Scorer
from metaqap_fast.model import bundle as bundles
from metaqap_fast.model.meta import widened
from metaqap_fast.train.doubt import SIGMAS, added_variance
from metaqap_fast.train.revise import Errors, covered, rounded_points

POINTS = ((0.0, 0.0), (0.25, 0.01), (1.0, 0.04))
META = replace(bundles.load("default").meta, severity_variance=POINTS)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 600), st.floats(0.01, 0.5))
def test_worse_is_never_surer(a: float, b: float, side: int, uncertainty: float) -> None:
    mild, severe = sorted((a, b))
    assert widened(uncertainty, side, severe, META) >= widened(uncertainty, side, mild, META) >= uncertainty


def test_variances_add_up() -> None:
    for severity, variance in (*POINTS, (0.125, 0.005), (0.625, 0.025), (2.0, 0.04)):
        assert widened(0.1, 600, severity, META) == pytest.approx((0.1**2 + variance) ** 0.5, abs=1e-12)
        small = widened(0.1, 64, 0.0, META) ** 2
        assert widened(0.1, 64, severity, META) == pytest.approx((small + variance) ** 0.5, abs=1e-12)
    assert widened(0.1, 600, 0.0, META) == 0.1  # to the bit


def test_the_points_hold_the_errors_that_they_were_fitted_on() -> None:
    """Errors that grow with severity: at every severity 95 % are inside, where without the points few are."""
    rng = np.random.default_rng(0)
    severity = np.concatenate([np.zeros(4000), rng.uniform(0, 1, 8000)])
    error = rng.normal(size=12_000) * (0.1 + 0.3 * severity)
    variance = np.full(12_000, 0.1**2)
    points = added_variance(severity, error, variance, np.ones(12_000))
    assert points[0] == (0.0, 0.0) and points == sorted(points)
    whole = variance + np.interp(severity, *zip(*points, strict=True))
    for low, high in ((-1, 0), (0, 0.2), (0.2, 0.6), (0.6, 1)):
        rows = (severity > low) & (severity <= high)
        assert (np.abs(error[rows]) < SIGMAS * np.sqrt(whole[rows])).mean() == pytest.approx(0.95, abs=0.015)
    assert (np.abs(error[severity > 0.6]) < SIGMAS * 0.1).mean() < 0.5
    assert added_variance(np.zeros(9), np.ones(9), variance[:9], np.ones(9)) == [(0.0, 0.0)]


def test_images_count_by_their_weight() -> None:
    """Of two sorts of images that look alike, the one that counts for all decides."""
    severity = np.tile(np.linspace(0.1, 1, 500), 2)
    error = np.repeat([0.5, 0.0], 500)
    variance = np.full(1000, 1e-4)
    for weights, wanted in (((1.0, 1e-6), (0.5 / SIGMAS) ** 2 - 1e-4), ((1e-6, 1.0), 0.0)):
        points = added_variance(severity, error, variance, np.repeat(weights, 500))
        assert points[-1][1] == pytest.approx(wanted)


def test_places_that_differ_by_rounding_alone_are_one(bundle: Path, tmp_path: Path) -> None:
    """Pictures that a fine view lowers by all it can differ in the last bits of a sum, and those differ by CPU."""
    most = 0.43
    place = np.array([0.1, 0.1, *np.nextafter(most, [0, 1, 1]), most])
    error = np.array([0.1, 0.1, 0.2, 0.3, 0.4, 0.4])
    points = added_variance(np.sort(place), error, np.zeros(6), np.ones(6))
    assert len({each for each, _ in points[1:]}) > 2  # more places than a bundle can tell apart
    rounded = rounded_points(points)
    assert [each for each, _ in rounded] == [0, 0.1, most] and rounded[-1][1] == pytest.approx((0.4 / SIGMAS) ** 2)
    assert bundles.load(_with(list(map(list, rounded)), bundle, tmp_path)).meta.severity_variance == tuple(rounded)


@pytest.mark.parametrize(
    "points", [[[0.0, 0.1]], [[0.1, 0.0]], [[0, 0], [0.5, 0.2], [0.4, 0.3]], [[0, 0], [0.5, 0.2], [0.6, 0.1]],
               [[0, 0], [0.5, float("nan")]], []],
)  # fmt: skip
def test_a_damaged_line(points: list[list[float]], bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(bundles.BundleError, match="damaged"):
        bundles.load(_with(points, bundle, tmp_path))


def test_a_ruined_picture_is_doubted(photo: Image.Image, tmp_path: Path) -> None:
    ruined = photo.resize((640, 480)).filter(ImageFilter.GaussianBlur(9))
    found = []
    shipped = bundles.MODELS / "default"
    with_points = _with([list(each) for each in POINTS], shipped, tmp_path / "points")
    for model in (_with([[0, 0], [1, 0]], shipped, tmp_path / "none"), with_points, shipped):
        with Scorer(model, engine="openvino", precision="fp32") as scorer:
            found.append(next(iter(scorer.score_arrays([ruined]))))
    plain, doubted, default = found
    assert plain.score == doubted.score == default.score and plain.reason
    assert default.uncertainty > 1.5 * plain.uncertainty
    severity = float(max(plain.reasons))
    assert severity > 0.25
    assert doubted.uncertainty == pytest.approx(widened(plain.uncertainty, 480, severity, _only(META)), abs=1e-6)


def _only(meta: Any) -> Any:
    return replace(meta, small_variance=())


def _with(points: list[list[float]], bundle: Path, folder: Path) -> Path:
    copy = shutil.copytree(bundle, folder / "copy")
    document = json.loads((copy / "bundle.json").read_text())
    document["meta_learner"]["severity_variance"] = points
    (copy / "bundle.json").write_text(json.dumps(document))
    return copy


def test_what_is_covered_is_counted_without_damage_and_with_it() -> None:
    held = Errors(np.zeros(4), np.array([0.0, 0.1, 0.3, 0.1]), np.full(4, 0.01))
    damaged = Errors(np.array([0.0, 0.5, 1.0, 1.0]), np.array([0.3, 0.3, 0.3, 0.5]), np.full(4, 0.01))
    both = covered((held, damaged), [(0.0, 0.0), (1.0, 0.03)])
    assert both["uncertainty"]["held-out photographs"] == {
        "inside, before": 0.75, "mean uncertainty, before": 0.1, "inside, after": 0.75, "mean uncertainty, after": 0.1
    }  # fmt: skip
    found = both["uncertainty"]["damaged photographs"]
    assert found["inside, before"] == 0 and found["inside, after"] == 0.5  # sigma .1, .158, .2 and .2
    assert found["mean uncertainty, after"] == pytest.approx((0.1 + 0.025**0.5 + 0.4) / 4, abs=1e-4)
