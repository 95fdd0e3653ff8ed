"""Images that look alike, and the best of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from metaqap_fast.cli import main
from metaqap_fast.errors import UsageError
from metaqap_fast.review.groups import Alike, better, duplicates, grouped, near_pairs
from metaqap_fast.scores.table import ScoreTable
from rows import ATTRIBUTES, a_row

Scored = Callable[..., Path]


def clusters(rng: np.random.Generator, count: int) -> np.ndarray:
    """Random hashes, and copies of them with some bits changed."""
    base = rng.integers(1, 2**64, count, dtype=np.uint64)
    flips = np.zeros(4 * count, np.uint64)
    for _ in range(8):
        flips ^= np.where(rng.random(len(flips)) < 0.6, np.uint64(1) << rng.integers(0, 64, len(flips), np.uint64), 0)
    return np.concatenate([base, np.tile(base, 4) ^ flips, base[: count // 4]])


@pytest.mark.parametrize("distance", [0, 3, 4, 7, 11])
def test_near_pairs_are_all_there_are(distance: int) -> None:
    codes = np.unique(clusters(np.random.default_rng(distance), 60))
    pairs = combinations(range(len(codes)), 2)
    expected = {(i, j) for i, j in pairs if (int(codes[i]) ^ int(codes[j])).bit_count() <= distance}
    found = {tuple(pair) for pairs in near_pairs(codes, distance) for pair in pairs.T.tolist()}
    assert found == expected
    assert expected or distance == 0


def by_hand(hashes: list[int], scores: list[float], distance: int) -> list[int]:
    best = [-1] * len(hashes)
    for i in sorted(range(len(hashes)), key=lambda i: -scores[i]):
        if best[i] < 0:
            for j in range(len(hashes)):
                if best[j] < 0 and (hashes[i] ^ hashes[j]).bit_count() <= distance:
                    best[j] = i
    return best


@pytest.mark.parametrize("distance", [0, 4, 8])
def test_the_best_takes_what_looks_like_it(distance: int) -> None:
    rng = np.random.default_rng(1)
    hashes = clusters(rng, 50)
    scores = np.round(rng.random(len(hashes)), 2)
    assert grouped(hashes, scores, distance).tolist() == by_hand(hashes.tolist(), scores.tolist(), distance)


def test_a_hundred_thousand_of_one_image_are_one_group() -> None:
    hashes = np.full(100_000, 7, np.uint64)
    hashes[50_000:] = 3
    assert set(grouped(hashes, np.linspace(0, 1, 100_000), 1).tolist()) == {99_999}


def test_a_probability_is_that_of_the_difference() -> None:
    rng = np.random.default_rng(0)
    errors = rng.multivariate_normal([0, 0], [[0.04, 0.5 * 0.2 * 0.1], [0.5 * 0.2 * 0.1, 0.01]], 200_000)
    happened = (0.6 + errors[:, 0] > 0.5 + errors[:, 1]).mean()
    assert better(0.6, 0.2, 0.5, 0.1, correlation=0.5) == pytest.approx(happened, abs=0.005)
    assert better(0.5, 0.0, 0.5, 0.0) == 0.5


def a_table(*rows: tuple[float, int]) -> ScoreTable:
    return ScoreTable.from_rows(
        [replace(a_row(b"%03d" % i, score), hash=code) for i, (score, code) in enumerate(rows)], ATTRIBUTES
    )


def test_duplicates_of_a_table_in_pieces() -> None:
    table = a_table((0.75, 0b1111), (0.9, 0xF0F0F0), (0.8, 0b1110), (0.3, 0b0111), (float("nan"), 0))
    found = duplicates([table[:2], table[2:]], Alike(distance=2))
    assert found.rows.tolist() == [0, 3]
    assert found.best.tolist() == [2, 2]
    assert (found.probability > 0.9).all()
    assert duplicates([table], Alike(distance=2, sure=0.999)).rows.tolist() == [3]


def test_only_images_of_one_sitting_are_compared() -> None:
    dates = ["2024-05-01T10:00:09", "2024-05-01T10:00:00", "2024-05-01T10:00:04.500", "2024-05-01T11:00:00", "", ""]
    rows = [replace(a_row(b"%d" % i, i / 10), hash=7, date=date) for i, date in enumerate(dates)]
    table = ScoreTable.from_rows(rows, {**ATTRIBUTES, "exif": "date"})
    assert duplicates([table], Alike(within=5)).best.tolist() == [2, 2, 5]  # of 0, 1 and 4; 3 is alone
    assert duplicates([table], Alike(within=4.6)).best.tolist() == [2, 2, 5]
    assert duplicates([table], Alike(within=4)).best.tolist() == [5]
    assert duplicates([table], Alike()).best.tolist() == [5] * 5
    with pytest.raises(UsageError, match="no dates"):
        duplicates([a_table((0.4, 1))], Alike(within=5))


def test_a_file_without_hashes_is_told() -> None:
    with pytest.raises(UsageError, match="no perceptual hashes"):
        duplicates([a_table((0.4, 0))], Alike())


def test_select_proposes_what_to_drop(scored: Scored, tmp_path: Path) -> None:
    rows = [replace(a_row(name, score), hash=code) for name, score, code in
            ((b"a.jpg", 0.78, 15), (b"b.jpg", 0.8, 14), (b"c.jpg", 0.6, 0xFF00FF00), (b"d.jpg", 0.6, 0))]  # fmt: skip
    scores = scored({}, more=rows)
    result = CliRunner().invoke(main, ["select", str(scores), "--duplicates", "--images", str(tmp_path / "photos")])
    assert result.stdout.splitlines() == [str(tmp_path / "photos/a.jpg")]
    assert "1 image without a perceptual hash not compared" in result.stderr
    result = CliRunner().invoke(main, ["select", str(scores), "--duplicates", "--csv"])
    header, line = result.stdout.splitlines()
    assert header == "path,score,uncertainty,best,best_score,probability"
    assert line.startswith("a.jpg,0.78,0.1,b.jpg,0.8,0.73")
