"""Rated pictures of other sets: which of them may calibrate the uncertainty, and what members see in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metaqap_fast.errors import UsageError
from metaqap_fast.train import rated
from metaqap_fast.train.datasets import load
from metaqap_fast.train.sets import NamedSet

SIZES = {"wide.png": (300, 150), "small.png": (90, 90), "square.png": (140, 140)}
LEVELS = {"wide.png": 200, "small.png": 20, "square.png": 60}


class Eyes:
    """Two members, who see the mean of a view and its side."""

    calls = 0

    def look(self, views: Iterable[Any]) -> Iterator[list[Any]]:
        self.calls += 1
        for view in views:
            yield [np.array([value], np.float16) for value in (view.mean(), len(view))]


def named(folder: Path, name: str) -> NamedSet:
    (folder / name).mkdir()
    for file, size in SIZES.items():
        Image.new("L", size, LEVELS[file]).save(folder / name / file)
    rows = "".join(f"{file},{1 + i}\n" for i, file in enumerate(SIZES))
    (folder / name / "mos.csv").write_text("image,mos\n" + rows)
    data = load("csv", folder / name / "mos.csv", 1, 5)
    return NamedSet(name, "compression", "validation", "CC0", "made up", data)


def test_large_pictures_are_seen_once_in_both_ways(tmp_path: Path) -> None:
    first, second = named(tmp_path, "a"), named(tmp_path, "b")
    (tmp_path / "b/wide.png").write_bytes((tmp_path / "b/small.png").read_bytes())
    eyes = Eyes()
    found = rated.see(eyes, [first, second], tmp_path / "cache", 64, 128)  # type: ignore[arg-type]
    assert [member[:, 0].tolist() for member in found.pooled] == [[200, 60, 60], [64, 64, 64]]
    assert [member[:, 0].tolist() for member in found.fine] == [[200, 60, 60], [64, 64, 64]]
    assert found.opinion.tolist() == [0, 0.5, 0.5] and found.weight.tolist() == [0.5, 0.5, 1]
    again = rated.see(eyes, [first, second], tmp_path / "cache", 64, 128)  # type: ignore[arg-type]
    assert eyes.calls == 2 and np.array_equal(again.pooled[0], found.pooled[0])
    third = named(tmp_path, "c")
    for name in ("wide.png", "square.png"):  # a set without large pictures, beside one that has some
        (tmp_path / "c" / name).write_bytes((tmp_path / "c/small.png").read_bytes())
    beside = rated.see(eyes, [third, first], tmp_path / "cache", 64, 128)  # type: ignore[arg-type]
    assert beside.opinion.tolist() == [0, 0.5] and beside.weight.tolist() == [0.5, 0.5]
    with pytest.raises(UsageError, match="no picture of the rated sets is large enough"):
        rated.see(eyes, [first], tmp_path / "other", 512, 1024)  # type: ignore[arg-type]


def test_the_usual_views_are_averaged_and_the_fine_one_is_not(tmp_path: Path) -> None:
    one = named(tmp_path, "a")
    halves = Image.new("L", SIZES["wide.png"], 0)
    halves.paste(240, (150, 0, 300, 150))
    halves.save(tmp_path / "a/wide.png")
    found = rated.see(Eyes(), [one], tmp_path / "cache", 64, 128)  # type: ignore[arg-type]
    assert found.pooled[0][:, 0] == pytest.approx([120, 60], abs=4)
    assert found.fine[0][:, 0].tolist()[1] == 60  # each has its own views


def test_only_sets_for_choosing_with_opinions_on_a_scale(tmp_path: Path) -> None:
    one = named(tmp_path, "a")
    pairs, untouched = replace(one, opinions="pairs"), replace(one, part="untouched")
    assert rated.for_choosing([pairs, one, untouched]) == [one]
    with pytest.raises(UsageError, match="no set of the table has the part 'validation'"):
        rated.for_choosing([pairs, untouched])
