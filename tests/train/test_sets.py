"""A table of labelled sets: what a set has to say of itself before anything is measured or trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metaqap_fast.errors import UsageError
from metaqap_fast.train.datasets import split
from metaqap_fast.train.sets import NamedSet, read_sets, shared_content

ENTRY: dict[str, Any] = {
    "name": "stills", "family": "compression", "part": "validation", "data": "csv", "root": "a/mos.csv",
    "low": 1, "high": 5, "licence": "CC BY 4.0", "recipe": "made up",
}  # fmt: skip


def write(folder: Path, *entries: dict[str, Any]) -> Path:
    lines = []
    for entry in entries:
        lines += ["[[set]]", *(f"{name} = {value!r}" for name, value in entry.items())]
    (folder / "sets.toml").write_text("\n".join(lines))
    return folder / "sets.toml"


def images(folder: Path, name: str, seed: int, count: int = 3) -> None:
    (folder / name).mkdir()
    rng = np.random.default_rng(seed)
    for i in range(count):
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((512, 512)).save(folder / name / f"{i}.png")
    rows = "".join(f"{i}.png,{1 + i}\n" for i in range(count))
    (folder / name / "mos.csv").write_text("image,mos\n" + rows)


def test_a_table_of_sets(tmp_path: Path) -> None:
    images(tmp_path, "a", 0)
    images(tmp_path, "b", 1)
    other = ENTRY | {"name": "films", "root": "b/mos.csv", "part": "untouched", "low": 5, "high": 1}
    first, second = read_sets(write(tmp_path, ENTRY, other))
    assert (first.name, first.family, first.part, first.licence) == ("stills", "compression", "validation", "CC BY 4.0")
    assert first.data.mos.tolist() == [0, 0.25, 0.5] and second.data.mos.tolist() == [1, 0.75, 0.5]
    assert shared_content([first, second]) == []
    (tmp_path / "b/1.png").write_bytes((tmp_path / "a/2.png").read_bytes())
    (line,) = shared_content([first, second])
    assert line == "stills 2.png (validation) and films 1.png (untouched) show the same"
    same_part = NamedSet(second.name, second.family, "validation", second.licence, second.recipe, second.data)
    assert shared_content([first, same_part]) == []


def test_contents_and_groups_of_a_csv(tmp_path: Path) -> None:
    images(tmp_path, "a", 0)
    (only,) = read_sets(write(tmp_path, ENTRY))
    assert only.data.reference is None and only.group is None and only.opinions == "scale"
    (tmp_path / "a/mos.csv").write_text("group,image,mos,Content\ngood,0.png,1, x \n\ngood,1.png,2,x\nbad,2.png,3,y\n")
    (only,) = read_sets(write(tmp_path, ENTRY | {"opinions": "pairs"}))
    assert only.data.reference == ["x", "x", "y"] and only.group == ["good", "good", "bad"]
    assert only.opinions == "pairs"
    train, _, test = split(only.data)
    assert {only.data.reference[i] for i in train}.isdisjoint(only.data.reference[i] for i in test)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            [{k: v for k, v in ENTRY.items() if k != "licence"}],
            r"set 1 \(stills\): licence is missing: a set whose terms",
        ),
        ([ENTRY | {"recipe": " "}], "recipe is missing"),
        ([{k: v for k, v in ENTRY.items() if k != "low"}], "needs the two ends of its MOS scale"),
        ([ENTRY | {"low": "worst"}], "low and high are numbers"),
        ([ENTRY | {"family": "paintings"}], "family is 'paintings', not one of authentic photographs, "),
        ([ENTRY | {"part": "test"}], "part is 'test', not one of train, validation, untouched"),
        ([ENTRY | {"opinions": "likes"}], "opinions is 'likes', not one of scale, pairs, looks, machine"),
        ([ENTRY | {"url": "x"}], "there is no entry 'url'"),
        ([ENTRY | {"high": 2.5}], "set 1"),
        ([ENTRY, ENTRY], "two sets are called 'stills'"),
    ],
)
def test_a_set_that_says_too_little_is_refused(tmp_path: Path, entries: list[dict[str, Any]], message: str) -> None:
    images(tmp_path, "a", 0)
    with pytest.raises(UsageError, match=message):
        read_sets(write(tmp_path, *entries))


def test_a_table_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sets.toml").write_text("[other]\nx = 1\n")
    with pytest.raises(UsageError, match="entries and nothing else"):
        read_sets(tmp_path / "sets.toml")
    (tmp_path / "sets.toml").write_text("[[set\n")
    with pytest.raises(UsageError, match=r"sets\.toml: "):
        read_sets(tmp_path / "sets.toml")
