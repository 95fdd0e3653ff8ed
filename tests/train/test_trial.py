"""The bars of heads, on scores that are known to pass or to fail them."""

from __future__ import annotations

import numpy as np
import pytest

from metaqap_fast.train.damage import KADIS, KINDS, named
from metaqap_fast.train.rungs import everything
from metaqap_fast.train.trial import people, trial

CELLS = np.linspace(4.5, 1.2, 5) - np.linspace(0, 0.1, KADIS)[:, None]
RUNGS = everything(3, 1)
PERFECT = np.array(
    [
        0.8 + 0.01 * rung.photograph
        if not rung.steps
        else 0.15 * (CELLS[rung.steps[0].kind, rung.steps[0].level] if rung.steps[0].kind < KADIS else 4)
        - 0.01 * rung.steps[0].level
        for rung in RUNGS
    ]
)


def test_scores_in_order_pass() -> None:
    found = trial(RUNGS, PERFECT, CELLS)
    assert found.people == pytest.approx(1) and set(found.adjacent.values()) == {1.0} == {*found.adjacent.values()}
    assert set(found.above.values()) == {0.0}
    assert {"mean shift", "contrast", "black and white"}.isdisjoint(found.adjacent) and "contrast" in found.above
    assert found.probes["negative"] == pytest.approx(0.6 - 0.81)
    summary = found.summary()
    assert summary["adjacent levels in order, worst kind"] == 1 and summary["mean change, negative"] < -0.2


def test_what_is_out_of_order_is_seen() -> None:
    scores, haze = PERFECT.copy(), named("haze")
    for row, rung in enumerate(RUNGS):
        if rung.steps and rung.steps[0].kind == haze and rung.photograph == 1:
            scores[row] = 0.81 + 0.01 * rung.steps[0].level  # the original has .81
    found = trial(RUNGS, scores, CELLS)
    assert found.adjacent["haze"] == pytest.approx(10 / 14)  # of 15, one pair is equal
    assert found.above["haze"] == pytest.approx(1 / 3) and found.above["banding"] == 0
    assert found.people == pytest.approx(1)


def test_a_kind_that_moves_nothing_has_no_order() -> None:
    kind = named("over-saturation")
    still = [i for i, rung in enumerate(RUNGS) if rung.steps and rung.steps[0].kind == kind]
    scores = PERFECT.copy()
    scores[still] = [0.8 + 0.01 * RUNGS[i].photograph for i in still]
    found = trial(RUNGS, scores, CELLS)
    assert "over-saturation" not in found.adjacent and found.above["over-saturation"] == 0


def test_agreement_with_people_can_be_of_some_kinds() -> None:
    means = trial(RUNGS, PERFECT, CELLS).cells
    assert means.shape == (len(KINDS), 6)
    means[3] = means[3][::-1]
    assert people(means, CELLS, [3]) == pytest.approx(-1) and people(means, CELLS, [4, 5]) == pytest.approx(1)
