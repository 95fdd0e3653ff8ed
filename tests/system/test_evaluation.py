"""Metrics against scipy and known values; labels that are refused."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

import metaqap_fast
from metaqap_fast import evaluation as ev
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


@pytest.mark.parametrize("b", [(0.9, 0.1, 0.4, 0.07), (0.2, 0.8, -0.3, 2.0), (1.5, -0.5, 0.6, -0.1), (1, 0, 0, 0)])
def test_logistic_is_the_formula(b: tuple[float, float, float, float]) -> None:
    b1, b2, b3, b4 = b
    x = np.array([-1.0, b3, 0.25, 0.7])
    expected = [(b1 - b2) / (1 + math.exp(-(v - b3) / abs(b4))) + b2 for v in x] if b4 else [0, 0.5, 1, 1]
    assert ev.logistic(x, b1, b2, b3, b4) == pytest.approx(expected, abs=1e-12)


def test_logistic_finds_its_own_parameters() -> None:
    x = np.linspace(0, 1, 200)
    y = ev.logistic(x, 0.9, 0.1, 0.4, 0.07)
    assert np.abs(ev.fit_logistic(x, y)) == pytest.approx((0.9, 0.1, 0.4, 0.07), abs=1e-6)
    values = ev.measure(x, y)
    assert values["plcc_logistic"] == pytest.approx(1) and values["rmse"] < 1e-5 and values["plcc"] < 0.99


def test_the_fit_begins_where_vqeg_says(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = []

    def fit(function: object, start: np.ndarray, **options: object) -> optimize.OptimizeResult:
        starts.append(start.tolist())
        return least_squares(function, start, **options)

    least_squares = optimize.least_squares
    monkeypatch.setattr(optimize, "least_squares", fit)
    x, y = np.array([0.1, 0.2, 0.4, 0.5, 0.8]), np.array([1.0, 3.0, 2.0, 4.0, 5.0])
    ev.fit_logistic(x, y)
    ev.fit_logistic(np.full(5, 0.5), y)
    assert starts == [pytest.approx([5, 1, 0.4, x.std() / 4]), pytest.approx([5, 1, 0.5, 1e-6])]


def test_rmse_is_in_units_of_the_mos() -> None:
    x, y = np.random.default_rng(0).multivariate_normal([50, 5], [[100, 7], [7, 1]], 200).T
    off = ev.logistic(x, *ev.fit_logistic(x, y)) - y
    assert ev.measure(x, y)["rmse"] == pytest.approx(math.sqrt(sum(off * off) / 200), rel=1e-12)
    assert 0.6 < ev.measure(x, y)["rmse"] < 0.8  # what a line leaves: sqrt(1 - .49)


def test_metrics_of_many_draws_are_those_of_each() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 4, 30))
    together = ev._metrics(x, x + y)
    assert together.shape == (5, 4)
    for i in range(4):
        assert together[:, i] == pytest.approx(list(ev.measure(x[i], x[i] + y[i]).values()), abs=1e-12)


@pytest.mark.parametrize("what", ["labels", "scores", "both"])
@pytest.mark.parametrize("value", [0.1, 1 / 3, 5.0])  # 7 times 0.1 has not the mean 0.1
def test_what_is_constant_has_no_correlation(what: str, value: float, recwarn: pytest.WarningsRecorder) -> None:
    keys = [b"%d.jpg" % i for i in range(7)]
    scores = [value] * 7 if what != "labels" else [i / 7 for i in range(7)]
    labels = {f"{i}.jpg": value if what != "scores" else i / 7 for i in range(7)}
    result = ev.evaluate(table(keys, scores), labels, draws=100)
    for name in ("srocc", "plcc", "plcc_logistic", "krocc"):
        assert np.isnan(result.metrics[name]).all()
    shown = value if what != "scores" else np.float32(value)
    assert (
        result.reason
        == f"all 7 {'scores' if what == 'scores' else 'labels'} are {shown:g}: a correlation is not defined"
    )
    rmse = result.metrics["rmse"]
    assert rmse[0] == pytest.approx(np.std(list(labels.values())) if what == "scores" else 0, abs=1e-6)
    assert rmse[1] <= rmse[0] + 1e-6 and rmse[0] <= rmse[2] + 1e-6
    document = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert document["plcc"] == {"value": None, "low": None, "high": None} and document["reason"] == result.reason
    assert not recwarn.list


@settings(max_examples=50, deadline=None)
@given(st.integers(5, 9), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_few_and_tied_values_give_no_warning(n: int, values: int, seed: int) -> None:
    x, y = np.random.default_rng(seed).integers(0, values + 1, (2, n)).astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measured = ev.measure(x, y)
    assert math.isfinite(measured["rmse"]) and math.isnan(measured["plcc"]) == (np.ptp(x) == 0 or np.ptp(y) == 0)


def test_draws_of_one_value_alone_play_no_part() -> None:
    x, y = np.array([0.0, 0, 0, 0, 1, 0]), np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        intervals = ev.bootstrap(x, y, 100)
    assert all(low <= high for low, high in intervals.values())


# --- intervals -------------------------------------------------------------------------------------------


def correlated(seed: int, count: int) -> np.ndarray:
    """[2, count]; their correlation is 0.8."""
    return np.random.default_rng(seed).multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], count).T


def curved(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and MOS that a logistic fits well."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, count)
    return x, ev.logistic(x, 0.9, 0.1, 0.5, 0.1) + rng.normal(0, 0.08, count)


def test_intervals_are_those_of_scipy() -> None:
    x, y = curved(80)
    found = ev.bootstrap(x, y)
    for name, statistic in (("plcc", stats.pearsonr), ("srocc", stats.spearmanr), ("krocc", stats.kendalltau)):
        expected = stats.bootstrap(
            (x, y),
            lambda a, b, statistic=statistic: statistic(a, b).statistic,
            paired=True,
            vectorized=False,
            n_resamples=1000,
            confidence_level=0.95,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
        assert found[name] == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert found[name][0] < ev.measure(x, y)[name] < found[name][1]
    assert ev.bootstrap(x, y, 100) == ev.bootstrap(x, y, 100, 0) != ev.bootstrap(x, y, 100, seed=1)


def test_intervals_hold_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """As often as they say, of 600 times; nine of ten would not do. What is slow and not looked at is left out."""
    monkeypatch.setattr(ev, "fit_logistic", lambda x, y: ())
    monkeypatch.setattr(ev, "logistic", lambda x: x)
    monkeypatch.setattr(ev, "krocc", lambda x, y: 0.0)
    monkeypatch.setattr(stats, "rankdata", lambda x, axis: x)
    hits = 0
    for seed in range(600):
        low, high = ev.bootstrap(*correlated(seed, 300), 400, 10_000 + seed)["plcc"]
        hits += low < 0.8 < high
    assert stats.binomtest(hits, 600, 0.95).pvalue > 0.01 > stats.binomtest(hits, 600, 0.9).pvalue


def test_memory_of_the_draws_does_not_grow_with_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ev, "_DRAWN", 1000)
    sizes, real = [], ev._metrics
    monkeypatch.setattr(ev, "_metrics", lambda x, y, axis: sizes.append(x.size) or real(x, y, axis))
    x, y = curved(90)
    in_pieces = ev.bootstrap(x, y, 100)
    assert max(sizes) <= 1000 and sum(sizes) >= 9000
    sizes.clear()
    monkeypatch.setattr(ev, "_DRAWN", 10)  # more images than that: one draw at a time
    ev.bootstrap(x, y, 3)
    assert sizes == [90] * 3
    monkeypatch.undo()
    assert in_pieces == ev.bootstrap(x, y, 100)


# --- labels and rows -------------------------------------------------------------------------------------


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No fits: intervals say how many draws they would have."""
    monkeypatch.setattr(ev, "bootstrap", lambda x, y, draws: dict.fromkeys(ev.METRICS, (-1.0, draws)))


@pytest.mark.usefixtures("_quick")
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
    assert result.metrics["srocc"] == (1, -1, 100)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("b/x.jpg", 1),
        ("./b//x.jpg", 1),
        ("a/x.jpg", 0),
        ("y.jpg", 2),
        ("other/y.jpg", 2),
        ("Y.JPG", 2),
        ("z.jpg", 3),  # though there is a Z.jpg too
        ("Z.jpg", 4),
        ("w.jpg", None),
        ("", None),
    ],
)
def test_a_name_finds_its_row_by_the_strictest_rule(name: str, row: int | None) -> None:
    paths = ["a/x.jpg", "b/x.jpg", "c/y.jpg", "z.jpg", "Z.jpg"]
    assert ev.match([name], iter(paths)) == [row]
    assert ev.match(["b/x.jpg", name], iter(paths)) == [1, row]


@pytest.mark.parametrize(("name", "count"), [("a.jpg", 2), ("A.JPG", 2), ("b.jpg", 3)])
def test_ambiguous_names_are_errors(name: str, count: int) -> None:
    paths = ["x/a.jpg", "y/a.jpg", *(f"{i}/b.jpg" for i in range(5))]
    shown = ", ".join(path for path in paths if path.endswith(name.lower()))[: count * 9 - 2]
    with pytest.raises(UsageError) as error:
        ev.evaluate(table([path.encode() for path in paths], [0.1] * 7), {name: 0.1})
    assert str(error.value) == f"the label {name!r} fits several rows: {shown}"


@pytest.mark.usefixtures("_quick")
def test_too_few_images() -> None:
    keys = [b"%d" % i for i in range(5)]
    labels = {str(i): i for i in range(9)}
    with pytest.raises(UsageError) as error:
        ev.evaluate(table(keys[:4], [0.1, 0.2, 0.3, 0.4]), labels)
    assert str(error.value) == (
        "only 4 of 9 labelled images have a score, and at least 5 are needed: 5 have no row, for example 4; 0 failed"
    )
    with pytest.raises(UsageError, match=r"only 0 of 1 .* needed: 0 have no row; 1 failed$"):
        ev.evaluate(table([b"0"], [np.nan], [Status.corrupt]), {"0": 1})
    with pytest.raises(UsageError, match="0 draws: at least 1"):
        ev.evaluate(table(keys, [0.1] * 5), labels, draws=0)
    least = ev.evaluate(table(keys, [0.1, 0.2, 0.3, 0.4, 0.5]), labels, draws=1)
    assert least.metrics["plcc"] == pytest.approx((1, -1, 1))


@pytest.mark.usefixtures("_quick")
def test_files_as_well_as_tables(tmp_path: Path) -> None:
    scores = table([b"%d.jpg" % i for i in range(9)], [i / 9 for i in range(9)])
    scores.save(tmp_path / "s.h5")
    (tmp_path / "labels.csv").write_text("name,mos\n" + "".join(f"{i}.jpg,{i * i}\n" for i in range(9)))
    by_file = metaqap_fast.evaluate(tmp_path / "s.h5", str(tmp_path / "labels.csv"))
    assert by_file == ev.evaluate(scores, {f"{i}.jpg": i * i for i in range(9)})
    assert by_file.count == 9 and by_file.metrics["srocc"] == (1, -1, 1000) and by_file.reason == ""
    assert by_file.as_dict()["reason"] is None and by_file.as_dict()["srocc"]["value"] == 1
    with pytest.raises(AttributeError):
        by_file.count = 8  # type: ignore[misc]


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (None, {}, "scores is None, not a ScoreTable or the name of a file"),
        (np.zeros(3), {}, r"scores is an array \[3\] of float64, not a ScoreTable"),
        (table([], []), None, "labels is None, not a Mapping or the name of a file"),
        (table([], []), [0.5], "labels is a list, not a Mapping"),
        (table([], []), {"a": float("nan")}, "labels: the MOS of 'a' is nan"),
        (table([], []), {"a": None}, "labels: the MOS of 'a' is None, not a number"),
        (table([], []), {3: 0.5}, "labels: the name 3 is not text"),
        ("/nowhere.h5", {}, "nowhere"),
    ],
)
def test_what_is_no_score_and_no_label(scores: object, labels: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ev.evaluate(scores, labels)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a.jpg,0.5\n",
            "the first line must name the columns, one of image name, image_name, image, name, path, file, filename, "
            "file_name, dist_img and one of mos, dmos, score, label, mean_opinion_score; it has a.jpg, 0.5",
        ),
        ("", "it has nothing"),
        ("name\n", "it has name"),
        ("name,mos\na.jpg,high\n", "line 2: the MOS of 'a.jpg' is 'high', not a number"),
        ("name,mos\na.jpg,0.5\nb.jpg\n", "line 3: no name and number in 'b.jpg'"),
        ("mos,a,b,name\n0.5,b.jpg\n", "line 2: no name and number in '0.5,b.jpg'"),
        ("name,mos\na.jpg,0.5\na.jpg,0.6\n", "line 3: 'a.jpg' has two labels"),
        ("name,mos\na.jpg,nan\n", "line 2: the MOS of 'a.jpg' is nan"),
        ("name,mos\n,0.4\n", "line 2: no name"),
        ("name,mos\n\xff,0.4\n", "is not a csv file: 'utf-8' codec can't decode"),
        ('name,mos\n"' + "a" * 200_000 + '",0.4\n', "is not a csv file: field larger than field limit"),
    ],
)
def test_labels_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labels.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError) as error:
        ev.read_labels(tmp_path / "labels.csv")
    assert str(error.value).startswith(str(tmp_path / "labels.csv")) and message in str(error.value)


def test_labels_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*labels\.csv: No such file or directory"):
        ev.read_labels(tmp_path / "labels.csv")


def test_labels_with_empty_columns_and_lines(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("\ufeffImage Name,MOS,,\nss03 (1).jpg,0.5,,\n,,,\nb.jpg,1,,\n")
    assert ev.read_labels(tmp_path / "labels.csv") == {"ss03 (1).jpg": 0.5, "b.jpg": 1.0}


def test_the_command_says_what_is_undefined(cli: Callable[..., Any], tmp_path: Path) -> None:
    table([b"%d.jpg" % i for i in range(9)], [i / 9 for i in range(9)]).save(tmp_path / "s.h5")
    (tmp_path / "labels.csv").write_text("name,mos\n" + "".join(f"{i}.jpg,3.5\n" for i in range(9)))
    command = ["evaluate", tmp_path / "s.h5", "--labels", tmp_path / "labels.csv", "--draws", 100]
    why = "all 9 labels are 3.5: a correlation is not defined"
    as_json, text = cli(*command, "--json"), cli(*command)
    assert (as_json.exit_code, as_json.stderr, text.exit_code, text.stderr) == (0, "", 0, "")
    document = json.loads(as_json.stdout, parse_constant=pytest.fail)
    assert document["srocc"] == {"value": None, "low": None, "high": None} and document["reason"] == why
    assert document["rmse"]["value"] == pytest.approx(0, abs=1e-9) and document["images"] == 9
    assert text.stdout.splitlines()[1:3] == [f"  {why}", "  SROCC          undefined"]
