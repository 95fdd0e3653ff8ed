"""Metrics against scipy and known values; labels that are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from metaqap_fast import evaluate as ev
from metaqap_fast.errors import Status, UsageError
from metaqap_fast.scores.table import ScoreTable
from rows import a_row


def table(keys: list[bytes], scores: list[float], statuses: list[int] | None = None) -> ScoreTable:
    found = zip(keys, scores, statuses or [0] * len(keys), strict=True)
    rows = [a_row(key, score, members=(0.0,), status=Status(status)) for key, score, status in found]
    return ScoreTable.from_rows(rows, {"members": ["m"]})


@settings(max_examples=50)
@given(st.integers(5, 60), st.integers(0, 2**32 - 1), st.booleans())
def test_correlations_agree_with_scipy(n: int, seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, n))
    if ties:
        x, y = np.round(x), np.round(y)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return
    assert ev.plcc(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert ev.srocc(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert ev.krocc(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)


def test_logistic_finds_its_own_parameters() -> None:
    x = np.linspace(0, 1, 200)
    y = ev.logistic(x, 0.9, 0.1, 0.4, 0.07)
    fit = ev.fit_logistic(x, y)
    assert np.allclose(ev.logistic(x, *fit), y, atol=1e-6)
    values = ev.measure(x, y)
    assert values["plcc_logistic"] == pytest.approx(1) and values["rmse"] < 1e-5 and values["plcc"] < 0.99


def test_constant_scores_have_no_correlation() -> None:
    assert np.isnan(ev.plcc(np.ones(5), np.arange(5.0)))


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    hits = 0
    for seed in range(40):
        x, y = np.random.default_rng(seed).multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], 120).T
        low, high = np.nanpercentile(
            [ev.plcc(x[i], y[i]) for i in np.random.default_rng(seed).integers(0, 120, (200, 120))], [2.5, 97.5]
        )
        hits += low < 0.8 < high
    assert hits >= 34


def test_names_are_matched(tmp_path: Path) -> None:
    keys = [b"Images/a.jpg", b"Images/ss02 (1014).JPG", b"b.jpg", b"c.jpg", b"d.jpg", b"bad.jpg", b"unlabelled.jpg"]
    scores = table(keys, [0.1, 0.2, 0.3, 0.4, 0.5, np.nan, 0.9], [0, 0, 0, 0, 0, Status.corrupt, 0])
    labels = {
        "a.jpg": 0.1,
        "ss02 (1014).jpg": 0.2,
        "b.jpg": 0.35,
        "c.jpg": 0.4,
        "d.jpg": 0.6,
        "bad.jpg": 1,
        "no.jpg": 0,
    }
    result = ev.evaluate(scores, labels, draws=100)
    assert result.count == 5 and result.missing == ["no.jpg"] and result.failed == ["bad.jpg"]
    value, low, high = result.metrics["srocc"]
    assert value == 1 and low <= value <= high


def test_ambiguous_names_are_errors() -> None:
    scores = table([b"x/a.jpg", b"y/a.jpg"], [0.1, 0.2])
    with pytest.raises(UsageError, match=r"fits several rows: x/a\.jpg, y/a\.jpg"):
        ev.evaluate(scores, {"a.jpg": 0.1})


def test_too_few_images() -> None:
    with pytest.raises(UsageError, match="only 1 of 2"):
        ev.evaluate(table([b"a.jpg"], [0.1]), {"a.jpg": 0.5, "b.jpg": 0.5})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg,0.5\n", "must name the columns"),
        ("", "must name the columns"),
        ("name,mos\na.jpg,high\n", "line 2"),
        ("name,mos\na.jpg,0.5\nb.jpg\n", "line 3"),
        ("name,mos\na.jpg,0.5\na.jpg,0.6\n", "line 3: 'a.jpg' stands there twice"),
        ("name,mos\na.jpg,nan\n", "line 2: the MOS of 'a.jpg' is nan"),
        ("name,mos\n,0.4\n", "line 2: no name"),
    ],
)
def test_labels_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        ev.read_labels(tmp_path / "labels.csv")


def test_labels_with_empty_columns_and_lines(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("\ufeffImage Name,MOS,,\nss03 (1).jpg,0.5,,\n,,,\nb.jpg,1,,\n")
    assert ev.read_labels(tmp_path / "labels.csv") == {"ss03 (1).jpg": 0.5, "b.jpg": 1.0}
