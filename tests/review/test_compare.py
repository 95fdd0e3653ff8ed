"""What changed between two score files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import spearmanr

from metaqap_fast.cli import main
from metaqap_fast.errors import Status
from metaqap_fast.review.compare import compare
from metaqap_fast.scores.table import ScoreTable
from rows import ATTRIBUTES, a_row

Scored = Callable[..., Path]


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, ["compare", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def test_what_changed(scored: Scored) -> None:
    bad = [a_row(b"c.jpg", status=Status.corrupt, error="cut")]
    one = scored({"a.jpg": 0.1, "b.jpg": 0.2, "c.jpg": 0.3, "gone.jpg": 0.4}, "one.h5")
    two = scored({"a.jpg": 0.1, "b.jpg": 0.45, "new.jpg": 0.5}, "two.h5", bad, precision="bf16")
    found = json.loads(run(one, two, "--json"))
    counts = [found[name] for name in ("both", "gone", "new", "failed", "mended", "equal", "beyond_uncertainty")]
    assert counts == [3, 1, 1, 1, 0, 1, 1]
    assert found["differing"] == {"precision": ["fp32", "bf16"]}
    assert [(move["path"], round(move["after"] - move["before"], 6)) for move in found["moves"]] == [("b.jpg", 0.25)]
    text = run(one, two)
    assert "+0.2500  0.2000 -> 0.4500  b.jpg" in text
    assert "c.jpg: corrupt, cut" in text
    assert json.loads(run(two, one, "--json"))["mended"] == 1


def test_the_same_file_has_not_changed(scored: Scored) -> None:
    one = scored({f"{i}.jpg": i / 7 for i in range(7)})
    found = json.loads(run(one, one, "--json"))
    assert found["srocc"] == pytest.approx(1)
    assert (found["both"], found["equal"], found["moves"]) == (7, 7, [])


def test_files_of_any_lengths_are_read_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaqap_fast.scores.merge.ROWS", 50)
    rng = np.random.default_rng(0)
    scores = [
        dict(zip(rng.choice(900, n, replace=False).tolist(), rng.random(n).tolist(), strict=True)) for n in (700, 300)
    ]
    for name, found in zip(("one", "two"), scores, strict=True):
        rows = [a_row(b"%02d/%02d" % divmod(key, 30), found[key]) for key in sorted(found)]
        ScoreTable.from_rows(rows, ATTRIBUTES).save(tmp_path / f"{name}.h5")
    same = sorted(set(scores[0]) & set(scores[1]))
    found = compare(tmp_path / "one.h5", tmp_path / "two.h5")
    assert (found.both, found.gone, found.new) == (len(same), 700 - len(same), 300 - len(same))
    left, right = (np.array([each[key] for key in same], np.float32) for each in scores)
    assert found.statistics()["srocc"] == pytest.approx(spearmanr(left, right).statistic)
    largest = np.sort(np.abs(left - right))[::-1][:10]
    np.testing.assert_allclose([move[0] for move in sorted(found.moves)[::-1]], largest, rtol=1e-6)


def test_files_without_a_common_image(scored: Scored, tmp_path: Path) -> None:
    one, two = scored({"a.jpg": 0.1}, "one.h5"), scored({"b.jpg": 0.1}, "two.h5")
    assert "no image has the same path" in run(one, two)
    ScoreTable.from_rows([], ATTRIBUTES).save(tmp_path / "none.h5")
    assert "0 images in both, 1 only in the first" in run(one, tmp_path / "none.h5")
    assert "0 images in both, 0 only" in run(tmp_path / "none.h5", tmp_path / "none.h5")
