"""What `inspect` says of a score file and of a model bundle."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metaqap_fast.errors import MetaqapError, Status, UsageError
from metaqap_fast.evaluation import Evaluation
from metaqap_fast.records import Row
from metaqap_fast.review.describe import describe_bundle, describe_evaluation, describe_scores
from metaqap_fast.scores.durable import write_scores
from metaqap_fast.scores.table import ScoreTable

ATTRIBUTES: dict[str, Any] = {"bundle": "tiny", "members": ["a", "b"], "precision": "fp32"}


def score_file(path: Path, scores: list[float]) -> str:
    rows = []
    for i, score in enumerate(scores):
        status = Status.ok if score >= 0 else Status(int(-score))
        value = score if score >= 0 else np.nan
        rows.append(Row(b"%04d" % i, value, value, np.zeros(2, np.float32), status, "", 1, 1, 1))
    write_scores(path, ATTRIBUTES, [ScoreTable.from_rows(rows, ATTRIBUTES)])
    return str(path)


def test_scores(tmp_path: Path) -> None:
    path = score_file(tmp_path / "s.h5", [i / 1000 for i in range(1001)] + [-1, -3, -3])
    lines = list(describe_scores(path))
    assert lines[:4] == [
        f"{path}: 1,004 rows, 1,001 scored", "  corrupt: 2", "  unreadable: 1",
        "  score: median 0.500, 5 % 0.050, 95 % 0.950",
    ]  # fmt: skip
    assert {"  bundle: tiny", "  precision: fp32"} < set(lines)


@pytest.mark.parametrize(
    ("scores", "words"), [([], "0 rows, 0 scored"), ([-2], "1 row, 0 scored"), ([0.5], "1 row, 1")]
)
def test_few_scores(tmp_path: Path, scores: list[float], words: str) -> None:
    lines = list(describe_scores(score_file(tmp_path / "s.h5", scores)))
    assert words in lines[0]
    assert any("median" in line for line in lines) == (scores == [0.5])


def test_a_bundle(bundle: Path) -> None:
    lines = list(describe_bundle(str(bundle)))
    assert lines[0].startswith(f"tiny at {bundle} (digest ") and len(lines[0].split("digest ")[1]) == 17
    assert lines[1].startswith("  mean: weight +0.5000, 0.0 MB") and lines[2].startswith("  max: weight +0.2500")
    assert lines[3] == "  intercept +0.1000, view size 64"
    rest = "\n".join(lines[4:])
    assert '"variance_slope": 2.0' in rest and '"files"' not in rest and '"members"' not in rest


def test_an_evaluation() -> None:
    metrics = {"srocc": (0.5, 0.4321, 0.6), "krocc": (math.nan, math.nan, math.nan), "rmse": (1.0, math.nan, 2.0)}
    found = Evaluation(1234, metrics, ["a", "b", "c", "d"], ["e"], "all labels are 3")
    assert list(describe_evaluation(found, 1239, 1000)) == [
        "1,234 of 1,239 labelled images (95 % bootstrap intervals, 1,000 draws)",
        "  left out, no row: 4 (a, b, c, ...)",
        "  left out, failed: 1 (e)",
        "  all labels are 3",
        "  SROCC          0.5000   [0.4321, 0.6000]",
        "  KROCC          undefined",
        "  RMSE           1.0000   [nan, 2.0000]",
    ]
    assert len(list(describe_evaluation(Evaluation(5, {}, ["a", "b", "c"], []), 8, 100))) == 2


def test_what_is_neither(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        list(describe_scores(str(tmp_path / "missing.h5")))
    with pytest.raises(MetaqapError):
        list(describe_bundle(str(tmp_path)))
