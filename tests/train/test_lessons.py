"""What fine-tuning on damage asks of a step: the lessons in a plan of rungs, and the loss of predictions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from metaqap_fast.train.damage import KINDS, PROBES, named
from metaqap_fast.train.lessons import ABOVE, MARGIN, ORDER, Lesson, Taught, lessons, rows_of, shortfall, thinned
from metaqap_fast.train.rungs import plan, sparse


def test_a_plan_is_cut_into_ladders_and_single_rungs() -> None:
    rungs = plan(3, kinds=4, pairs=2, probes=1, seed=5)
    found = lessons(rungs)
    assert sum(len(lesson.rows) for lesson in found) == sum(bool(rung.steps) for rung in rungs)  # each row once
    for lesson in found:
        photograph = rungs[lesson.original]
        assert not photograph.steps
        steps = [rungs[row].steps for row in lesson.rows]
        assert {rungs[row].photograph for row in lesson.rows} == {photograph.photograph}
        if lesson.ordered:
            assert len({step.kind for (step,) in steps}) == 1
            assert KINDS[steps[0][0].kind].ordered
            assert [step.level for (step,) in steps] == list(range(5))
        else:
            assert len(steps) == 1
    singles = [rungs[lesson.rows[0]].steps for lesson in found if not lesson.ordered]
    assert sum(len(steps) == 2 for steps in singles) == 6  # two kinds at once
    assert sum(steps[0].kind in PROBES for steps in singles if len(steps) == 1) == 14  # 12 checks, 2 others dealt


def test_kinds_without_an_order_are_single_rungs() -> None:
    rungs = [rung for rung in plan(40, 5, 0, 0, 1) if not rung.steps or rung.steps[0].kind == named("mean shift")]
    found = lessons(rungs)
    assert found
    assert not any(lesson.ordered for lesson in found)


def test_ladders_of_two_levels() -> None:
    rungs = sparse(4, 3, np.random.default_rng(0))
    ordered = [lesson for lesson in lessons(rungs) if lesson.ordered]
    assert {len(lesson.rows) for lesson in ordered} == {2}


def test_thinned_ladders_keep_their_order() -> None:
    lesson = Lesson(0, (1, 2, 3, 4, 5), True)
    seen = {thinned(lesson, 3, np.random.default_rng(seed)).rows for seed in range(100)}
    assert len(seen) == 10  # every choice of three
    assert all(list(rows) == sorted(rows) for rows in seen)
    assert thinned(lesson, 5, np.random.default_rng(0)) is lesson


CHOSEN = [Lesson(0, (1, 2), True), Lesson(3, (4,), False), Lesson(3, (5,), True)]
TAUGHT = Taught(
    np.array([0, -0.1, -0.3, 0, -0.2, math.nan]),
    np.array([0.8, 0.8, 0.8, 0.6, 0.6, 0.6]),
    np.array([1, 1, 1, 1, 3.0, 1]),
)


def asked(scores: list[float]) -> float:
    """The loss where rows 0 to 5 score so much."""
    predicted = torch.tensor([scores[row] for row in rows_of(CHOSEN)], dtype=torch.float64)
    return float(shortfall(CHOSEN, predicted, TAUGHT))


def test_nothing_is_asked_of_what_is_as_taught() -> None:
    assert asked([0.8, 0.7, 0.5, 0.6, 0.4, 0.55]) == pytest.approx(0, abs=1e-12)
    assert asked([0.8, 0.7, 0.5, 0.6, 0.4, 0.1]) == pytest.approx(0, abs=1e-12)  # only its order is known


def test_the_loss_counts_what_is_off_by_its_weight() -> None:
    assert asked([0.8, 0.65, 0.5, 0.6, 0.4, 0.5]) == pytest.approx(0.05**2 / 3)
    assert asked([0.8, 0.7, 0.5, 0.6, 0.35, 0.5]) == pytest.approx(3 * 0.05**2 / 3)


def test_a_rung_above_its_original_and_a_wrong_order_cost_more() -> None:
    above = asked([0.8, 0.7, 0.5, 0.6, 0.4, 0.7])
    assert above == pytest.approx(ABOVE * 0.1**2 / 7 + ORDER * 0.1 / 3)  # of seven rows and three pairs; no margin here
    swapped = asked([0.8, 0.5, 0.505, 0.6, 0.4, 0.5])
    expected = (0.2**2 + 0.005**2) / 3 + ORDER * (MARGIN + 0.005) / 3
    assert swapped == pytest.approx(expected)


def test_the_photograph_itself_is_to_stay_where_it_is() -> None:
    moved = asked([0.9, 0.8, 0.6, 0.6, 0.4, 0.5])
    assert moved == pytest.approx(0.3 * 0.1**2 / 3)


def test_lessons_of_which_the_order_alone_is_known() -> None:
    taught = Taught(np.full(3, math.nan), np.full(3, 0.8), np.ones(3))
    chosen = [Lesson(0, (1, 2), True)]
    predicted = torch.tensor([0.8, 0.7, 0.75], dtype=torch.float64, requires_grad=True)
    loss = shortfall(chosen, predicted, taught)
    assert float(loss.detach()) == pytest.approx(ORDER * 0.05 / 2)
    loss.backward()
    assert predicted.grad is not None
    assert bool(predicted.grad.isfinite().all())
