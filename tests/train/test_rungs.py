"""Plans of ladders: from a seed alone, every kind equally often, photographs in one part each."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metaqap_fast.errors import UsageError
from metaqap_fast.train.damage import KINDS, LADDERS, PROBES, Step, damaged, named
from metaqap_fast.train.rungs import CHECKS, PARTS, Rung, everything, name_of, photographs, plan, sparse, views


def test_kinds_are_dealt_equally_and_photographs_come_first() -> None:
    rungs = plan(50, kinds=2, pairs=1, probes=1, seed=5)
    assert rungs == plan(50, kinds=2, pairs=1, probes=1, seed=5) != plan(50, kinds=2, pairs=1, probes=1, seed=6)
    assert [rung.photograph for rung in rungs] == sorted(rung.photograph for rung in rungs)
    for photograph in range(50):
        own = [rung for rung in rungs if rung.photograph == photograph]
        assert not own[0].steps and all(rung.steps for rung in own[1:]) and len({rung.seed for rung in own}) == 1
        assert Counter(len(rung.steps) for rung in own if not probes(rung)) == {0: 1, 1: 2 * 5, 2: 1}
    dealt = Counter(rung.steps[0].kind for rung in rungs if len(rung.steps) == 1)
    assert {dealt[kind] for kind in LADDERS} == {2 * 5} and set(dealt) == {*LADDERS, *PROBES}
    assert {dealt[kind] for kind in CHECKS} == {50}  # once for each photograph, also where it was dealt
    assert {dealt[kind] for kind in {*PROBES} - {*CHECKS}} <= {5, 6}


def probes(rung: Rung) -> bool:
    return any(step.kind in PROBES for step in rung.steps)


def test_many_photographs_have_few_rungs_and_every_check() -> None:
    rungs = sparse(60, 3, np.random.default_rng(1))
    for photograph in range(60):
        own = [rung for rung in rungs if rung.photograph == photograph]
        assert not own[0].steps and len({rung.seed for rung in own}) == 1
        assert Counter(len(rung.steps) for rung in own if not probes(rung)) == {0: 1, 1: 3 * 2, 2: 1}
        assert [rung.steps[0].kind for rung in own if probes(rung)] == sorted(CHECKS)


def test_everything_is_every_kind_at_every_level() -> None:
    rungs = everything(2, seed=1)
    cells = [step for rung in rungs if rung.photograph == 1 for step in rung.steps]
    assert cells == [Step(kind, level) for kind, one in enumerate(KINDS) for level in range(len(one.levels))]


def test_views_are_those_of_their_rungs(tmp_path: Path, photos: dict[str, Image.Image]) -> None:
    files = []
    for name in ("astronaut", "chelsea"):
        files.append(tmp_path / f"{name}.png")
        photos[name].convert("RGB").resize((512, 512)).save(files[-1])
    steps = (Step(named("under-exposure"), 2),)
    rungs = [Rung(1, (), 0), Rung(1, steps, 9), Rung(0, steps, 9)]
    found = list(views(files, rungs))
    assert np.array_equal(found[0], np.asarray(Image.open(files[1])))
    assert np.array_equal(found[1], damaged(found[0], steps, 9)) and not np.array_equal(found[1], found[2])


def test_a_photographs_part_is_its_own_whatever_its_name(tmp_path: Path) -> None:
    for i in range(60):
        (tmp_path / f"{i}.png").write_bytes(b"picture %d" % i)
    (tmp_path / "notes.txt").write_text("no photograph")
    parts = {part: photographs(tmp_path, part) for part in PARTS}
    assert sorted(path for paths in parts.values() for path in paths) == sorted(tmp_path.glob("*.png"))
    assert len(parts["train"]) > 30 and all(parts.values())
    moved = parts["untouched"][0].rename(tmp_path / "another name.png")
    assert moved in photographs(tmp_path, "untouched")
    with pytest.raises(UsageError, match="no photographs for train among 0"):
        photographs(tmp_path.parent / "nowhere", "train")
    with pytest.raises(UsageError, match="unknown part 'test'"):
        photographs(tmp_path, "test")


def test_a_cache_is_named_by_what_is_in_it(tmp_path: Path) -> None:
    """By the bytes of files and by what is made of them, not by where they are."""
    files = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    for file, content in zip(files, (b"one", b"two", b"one"), strict=True):
        file.write_bytes(content)
    a, b, c = files
    steps = plan(1, kinds=1, pairs=0, probes=0, seed=1)
    assert name_of([a], steps) == name_of([c], steps)
    others = [
        name_of([b], steps),
        name_of([a, b], steps),
        name_of([b, a], steps),
        name_of([a]),
        name_of([a], steps[:-1]),
    ]
    assert len({name_of([a], steps), *others}) == 6
