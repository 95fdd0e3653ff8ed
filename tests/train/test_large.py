"""Copies of large photographs: what is made, how it is judged, and what it teaches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metaqap_fast.errors import UsageError
from metaqap_fast.train import large
from metaqap_fast.train.damage import BEST
from metaqap_fast.train.large import Copy, Judge, Large, agreement, lessons, made, photographs, plan, see, share_kept
from metaqap_fast.train.opinion import Link

COPIES = 1 + large.SCALED + large.CODED + 2 * large.PAIRS
CELLS = np.linspace(1.2, 4.6, 125).reshape(25, 5)


def photograph(side: int, seed: int = 0) -> Image.Image:
    """Detail of all sizes."""
    rng, pixels = np.random.default_rng(seed), np.zeros((side, side, 3))
    for cells in (4, 16, 64, side):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        pixels += np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC)) / 4
    return Image.fromarray(pixels.astype(np.uint8))


def test_a_plan_is_the_photograph_and_ladders_that_become_worse() -> None:
    copies = plan(1700, np.random.default_rng(3))
    assert copies == plan(1700, np.random.default_rng(3)) != plan(1700, np.random.default_rng(4))
    assert copies[0] == Copy() and len(copies) == COPIES
    scaled = [copy for copy in copies if copy.ladder == 1]
    coded = [copy for copy in copies if copy.ladder == 2]
    assert [copy.lines for copy in scaled] == sorted({copy.lines for copy in scaled}, reverse=True)
    assert [copy.quality for copy in coded] == sorted({copy.quality for copy in coded}, reverse=True)
    assert len({copy.codec for copy in coded}) == 1 and all(not copy.codec for copy in scaled)
    for ladder in (3, 4):
        more, fewer = (copy for copy in copies if copy.ladder == ladder)
        assert more.lines > fewer.lines and replace(more, lines=fewer.lines) == fewer and fewer.codec
    assert {copy.ladder for copy in copies} == {0, 1, 2, 3, 4}
    assert max(copy.lines for copy in copies) < 0.85 * 1700  # what takes nothing away is no copy


@pytest.mark.parametrize("codec", sorted(large.QUALITIES))
def test_less_is_left_of_a_worse_copy(codec: str) -> None:
    original = photograph(800)
    judge = Judge(original, np.random.default_rng(0))
    assert judge(original) == 1
    left = [
        judge(made(original, copy))
        for copy in (
            Copy(0, codec=codec, quality=large.QUALITIES[codec][-1]),
            Copy(0, codec=codec, quality=large.QUALITIES[codec][0]),
            Copy(100, codec=codec, quality=large.QUALITIES[codec][0]),
        )
    ]
    assert 1 > left[0] > left[1] > left[2] > 0
    scaled = [judge(made(original, Copy(lines))) for lines in (600, 300, 100)]
    assert 1 > scaled[0] > scaled[1] > scaled[2] > 0
    assert made(original, Copy(100, codec=codec, quality=50)).size == original.size


def test_the_middle_of_a_photograph(tmp_path: Path) -> None:
    wide = np.zeros((1501, 3000, 3), np.uint8)
    wide[:, 1000:2000] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    found = large.middle(tmp_path / "wide.png", large.LEAST)
    assert found is not None and found.size == (1500, 1500)
    columns = np.asarray(found)[700, :, 0]
    assert columns[0] == columns[-1] == 0 and columns[750] == 255 and abs(int((columns > 127).sum()) - 1000) <= 2
    Image.new("RGB", (4000, 4400)).save(tmp_path / "huge.png")
    huge = large.middle(tmp_path / "huge.png", large.LEAST)
    assert huge is not None and huge.size == (large.SIDE, large.SIDE)
    Image.new("RGB", (3000, large.LEAST - 1)).save(tmp_path / "low.png")
    assert large.middle(tmp_path / "low.png", large.LEAST) is None


def two() -> Large:
    """Two photographs: a ladder of two copies each, of which one photograph's are nearly alike, and a single copy."""
    target = np.array([1, 0.8, 0.5, 0.3, 1, 0.9, 0.89, 0.2])
    return Large([], [], target, np.repeat([0, 1], 4), np.array([0, 1, 1, 0] * 2))


def test_what_copies_teach() -> None:
    score = np.linspace(0.8, 0.1, 8)
    taught = lessons(two(), torch.zeros(8, 3), score, np.full(8, 0.5), 2)
    assert taught.original.tolist() == [0] * 4 + [4] * 4
    assert taught.milder.tolist() == [-1, 0, 1, -1, -1, 4, -1, -1]  # .89 is not below .9
    assert [rows.tolist() for rows in taught.contents] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert taught.severity.shape == (8, 2) and bool(taught.severity.isnan().all()) and not taught.probe.any()
    both = taught.beside(taught)
    assert both.original[8:].tolist() == [8] * 4 + [12] * 4 and both.milder[8:].tolist() == [
        -1,
        8,
        9,
        -1,
        -1,
        12,
        -1,
        -1,
    ]
    assert len(both.contents) == 4 and both.contents[3].tolist() == [12, 13, 14, 15] and len(both.x) == 16
    assert len(taught.times(3).contents) == 6
    known = photographs(two(), torch.arange(8.0)[:, None], score)
    assert known.x[:, 0].tolist() == [0, 4] and known.mos.tolist() == [pytest.approx(score[[0, 4]].mean())] * 2
    assert len(known.beside(known).good) == 4


def test_copies_of_little_quality_have_an_order_too() -> None:
    """What is clear is measured by the better copy: a fifth less of almost nothing is a fifth less."""
    target = np.array([1, 0.05, 0.04, 0.0395])
    few = Large([], [], target, np.zeros(4, np.int64), np.array([0, 1, 1, 1]))
    assert lessons(few, torch.zeros(4, 3), target, target, 1).milder.tolist() == [-1, 0, 1, -1]


def test_another_plan_has_another_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    before = large.name()
    assert before == large.name()
    monkeypatch.setattr(large, "LINES", (1080, 720))
    assert large.name() != before


def test_the_share_that_is_kept_follows_what_people_said() -> None:
    opinion = np.linspace(1.2, BEST, 200)
    share = share_kept(np.array([0, 0.2, 0.5, 0.9, 1]), CELLS, Link(opinion, (opinion - 1) / (BEST - 1)))
    assert share[-1] == 1 and (np.diff(share) > 0).all()
    assert share[2] == pytest.approx((np.quantile(CELLS, 0.5) - 1) / (BEST - 1), abs=0.05)


def test_agreement_is_within_photographs() -> None:
    seen = two()
    found = agreement(seen, seen.target - 0.5 * seen.photograph)
    assert found["within each photograph"] == pytest.approx(1) and 0 < found["over all"] < 1
    assert found["mean score of undamaged ones"] == pytest.approx(0.75)
    assert agreement(seen, -seen.target)["over all"] == pytest.approx(-1)


class Brightness:
    """In place of members: they see how bright a view is."""

    looked = 0

    def look(self, views: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
        for view in views:
            self.looked += 1
            yield [np.array([view.mean()], np.float16), np.array([view.shape[0], 1], np.float16)]


def test_what_is_seen_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SIDE": 500, "LEAST": 420, "LINES": (300, 200, 150, 100), "CROP": 200}.items():
        monkeypatch.setattr(large, name, value)
    (tmp_path / "in").mkdir()
    for i in range(3):
        photograph(500, i).save(tmp_path / f"in/{i}.png", compress_level=1)
    photograph(410).save(tmp_path / "in/low.png")
    eyes, files = Brightness(), sorted((tmp_path / "in").iterdir())
    seen = see(eyes, files, tmp_path / "cache", 128, 256)  # type: ignore[arg-type]
    count = COPIES
    assert eyes.looked == 2 * 3 * count
    for pooled in (seen.pooled, seen.fine):
        assert [each.shape for each in pooled] == [(3 * count, 1), (3 * count, 2)]
        assert set(pooled[1][:, 0].tolist()) == {128}
    assert not np.array_equal(seen.pooled[0], seen.fine[0])
    assert (seen.target[::count] == 1).all() and seen.target[seen.ladder > 0].max() < 1
    again = see(eyes, files, tmp_path / "cache", 128, 256)  # type: ignore[arg-type]
    assert eyes.looked == 2 * 3 * count and again.target.tolist() == seen.target.tolist()
    with pytest.raises(UsageError, match="none of 1 photograph has 420 lines"):
        see(eyes, files[-1:], tmp_path / "other", 128, 256)  # type: ignore[arg-type]


def test_parts_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no photographs for train among 0"):
        large.files_of(tmp_path, "train")
    for i in range(40):
        Image.new("RGB", (2, 2), (i, i, i)).save(tmp_path / f"{i}.png")
    parts = [large.files_of(tmp_path, part) for part in ("train", "validation", "untouched")]
    assert sum(map(len, parts)) == len({file for part in parts for file in part}) == 40
    assert len(parts[0]) > len(parts[1])
