"""Ladders: distorted copies of known order, and the loss that asks for it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from metaqap_fast.train.ladders import (
    FIRST,
    GAP,
    KINDS,
    MARGIN,
    RANGES,
    RUNGS,
    Ladder,
    climb,
    ladder,
    ladders,
    order_loss,
)


@pytest.fixture(scope="module")
def view(photos: dict[str, Image.Image]) -> np.ndarray:
    return np.asarray(photos["astronaut"].convert("RGB").resize((256, 256)))


@pytest.mark.parametrize("kinds", KINDS)
def test_severities_are_in_range_apart_and_drawn_from_the_seed(kinds: str) -> None:
    drawn = [ladder(seed, kinds) for seed in range(400)]
    assert drawn == [ladder(seed, kinds) for seed in range(400)] and {one.kind for one in drawn} == set(KINDS[kinds])
    for one in drawn:
        low, high = RANGES[one.kind]
        mild, severe = (np.log(value / low) / np.log(high / low) for value in one.severities)
        assert -1e-9 <= mild <= severe - GAP + 1e-9 <= 1 - GAP + 1e-9


def test_the_first_kinds_are_those_of_the_shipped_model() -> None:
    assert set(KINDS["first"]) == set(FIRST) < set(KINDS["all"]) == set(RANGES)
    assert [ladder(seed).kind + 1 for seed in range(12)] == [11, 10, 13, 9, 3, 13, 1, 11, 11, 12, 1, 1]


@pytest.mark.parametrize(
    "kind", [kind if kind in FIRST else pytest.param(kind, marks=pytest.mark.full) for kind in sorted(RANGES)]
)
def test_each_rung_is_farther_from_the_photograph(view: np.ndarray, kind: int) -> None:
    low, high = RANGES[kind]
    places = np.linspace(0, 1, 4)  # GAP apart or less
    for mild, severe in itertools.pairwise(places):
        pair = tuple(float(low * (high / low) ** place) for place in (mild, severe))
        rungs = climb(view, Ladder(kind, (pair[0], pair[1]), 5))
        assert len(rungs) == RUNGS and rungs[0] is view and all(rung.shape == view.shape for rung in rungs)
        errors = [float(np.square(rung.astype(float) - view).mean()) for rung in rungs]
        assert errors[0] == 0 and 0 < errors[1] < 0.9 * errors[2]


def test_views_come_ladder_by_ladder(view: np.ndarray) -> None:
    other = view[::-1].copy()
    seen = list(ladders([view, other], seed=1))
    assert len(seen) == 2 * RUNGS and np.array_equal(seen[0], view) and np.array_equal(seen[RUNGS], other)
    again = list(ladders([view, other], seed=1))
    assert all(np.array_equal(a, b) for a, b in zip(seen, again, strict=True))
    assert not np.array_equal(seen[1], list(ladders([view], seed=2))[1])


def test_order_loss_is_the_mean_shortfall() -> None:
    falling = torch.tensor([0.9, 0.5, 0.1, 0.8, 0.4, 0.3])
    assert order_loss(falling) == 0
    predictions = torch.tensor([0.9, 0.5, 0.6, 0.8, 0.79, 0.3], requires_grad=True)  # .1 too high, .02 short
    loss = order_loss(predictions)
    assert loss.item() == pytest.approx(((MARGIN + 0.1) + (MARGIN - 0.01)) / 4, abs=1e-6)
    loss.backward()
    assert predictions.grad is not None
    assert predictions.grad.tolist() == pytest.approx([0, -0.25, 0.25, -0.25, 0.25, 0])
