"""Opinions become targets: cells are checked, and what people call worse loses more of the score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metaqap_fast.errors import UsageError
from metaqap_fast.train.damage import BEST, KADIS, KINDS, Step, named
from metaqap_fast.train.opinion import TAUGHT, WITHOUT_ORIGINAL, link, of_originals, opinions, read_cells, targets
from metaqap_fast.train.rungs import Rung, everything

CELLS = np.linspace(4.6, 1.2, 5) - np.linspace(0, 0.1, KADIS)[:, None]  # each kind falls from level to level


def table(path: Path, lines: list[str]) -> Path:
    path.write_text("id,kind,level,mean_opinion\n" + "\n".join(lines) + "\n")
    return path


def rows() -> list[str]:
    return [f"{kind + 1},x,{level + 1},{CELLS[kind, level]:.3f}" for kind in range(KADIS) for level in range(5)]


def test_cells_are_read(tmp_path: Path) -> None:
    assert read_cells(table(tmp_path / "cells.csv", rows())) == pytest.approx(CELLS, abs=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[1:], "1 of 125 cells are missing"),
        (lambda lines: [*lines, lines[3]], "line 127: kind 1, level 4 is there twice"),
        (lambda lines: ["1,x,1,5.5", *lines[1:]], "line 2: ids are 1 to 25, levels and opinions 1 to 5"),
        (lambda lines: ["26,x,1,4", *lines[1:]], "line 2: ids are"),
        (lambda lines: ["1,x,1,good", *lines[1:]], "line 2: needs id, level and mean_opinion"),
        (lambda lines: ["1,x", *lines[1:]], "line 2: needs id"),
    ],
)
def test_a_faulty_table_is_refused(tmp_path: Path, change: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_cells(table(tmp_path / "cells.csv", change(rows())))  # type: ignore[operator]


def scored() -> tuple[list[Rung], np.ndarray]:
    """Every kind of two photographs, whose taught kinds lose as much as people say."""
    rungs = everything(2, 3)
    own = np.array([0.8, 0.6])[[rung.photograph for rung in rungs]]
    share = [
        np.interp(CELLS[step.kind, step.level], [1, BEST], [0.2, 1]) if step.kind in TAUGHT else 1.0
        for rung in rungs
        for step in (rung.steps or [Step(KADIS, 0)])
    ]
    return rungs, own * share


def test_the_link_is_read_off_the_kinds_that_were_taught() -> None:
    rungs, scores = scored()
    kept = link(rungs, scores, opinions(CELLS))
    assert kept(BEST) == 1 and kept(5) == 1
    for opinion in (4.2, 3.0, 2.0, 1.3, 1.05):
        assert kept(opinion) == pytest.approx(np.interp(opinion, [1, BEST], [0.2, 1]), abs=0.05)
    shares = [kept(opinion) for opinion in np.linspace(1, 5, 50)]
    assert shares == sorted(shares)
    with pytest.raises(UsageError, match="0 rungs of kinds that were rated are too few"):
        link([Rung(0, (), 0)], np.ones(1), opinions(CELLS))


def test_a_target_is_what_is_left_of_the_photographs_own_score() -> None:
    rungs, scores = scored()
    said = opinions(CELLS)
    kept = link(rungs, scores, said)
    wanted = targets(rungs, scores, said, kept)
    same = [i for i, rung in enumerate(rungs) if not rung.steps]
    assert wanted[same].tolist() == scores[same].tolist()
    bw = next(i for i, rung in enumerate(rungs) if rung.steps == (Step(named("black and white"), 0),))
    assert wanted[bw] == of_originals(rungs, scores)[bw]
    two = (Step(0, 2), Step(9, 3))
    both = targets([Rung(0, (), 0), Rung(0, two, 0)], np.array([0.8, 0.1]), said, kept)
    assert both[1] == pytest.approx(0.8 * kept(CELLS[0, 2]) * kept(CELLS[9, 3]))


def test_a_photograph_without_colours_is_a_photograph() -> None:
    said = opinions(CELLS)
    kind = named("saturation, HSV")
    assert said[kind] == WITHOUT_ORIGINAL["saturation, HSV"] and said[kind][3] == BEST
    assert [len(opinion) for opinion in said] == [len(one.levels) for one in KINDS]
