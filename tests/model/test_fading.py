"""What a fine view lowers, and how unsure that is: little of a picture that is poor without it, never out of order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metaqap_fast.model.meta import MetaLearner, combine, combine_tensors
from metaqap_fast.model.readout import NEVER, Readout, faded

FADING = (0.4, 0.6, 0.15)
POINTS = ((0.0, 0.0), (0.1, 0.02), (0.3, 0.04))
META = MetaLearner((0.5, 0.25), 0.1, ((0.0, 0.01), (1.0, 0.03)), 2.0, fine_variance=POINTS)
READOUT = Readout((0, 2), (range(1, 2), range(3, 4)), (), (0.0,), (), (-1.0,), 0.0, FADING)
numbers = st.floats(-1, 2, width=32)


def test_a_poor_picture_loses_what_all_of_them_lose_and_a_fair_one_what_its_fine_view_tells() -> None:
    told = np.array([-0.2, 0.3, -0.2, 0.3, -0.2, -0.9], np.float32)
    prediction = np.array([0.39, 0.2, 0.61, 0.9, 0.5, 0.9], np.float32)
    wanted = [-0.15, -0.15, -0.2, 0.0, 0.5 * -0.2 + 0.5 * -0.15, 0.4 - 0.6 - 0.15]
    assert faded(told, prediction, FADING) == pytest.approx(wanted, abs=1e-6)


@given(numbers, numbers, numbers)
def test_of_two_pictures_with_one_fine_view_the_better_stays_so(told: float, a: float, b: float) -> None:
    worse, better = sorted((a, b))
    change = faded(np.full(2, told, np.float32), np.array([worse, better], np.float32), FADING)
    assert worse + change[0] <= better + change[1] + 1e-6
    assert (change <= 0).all()


@given(numbers, st.floats(-0.875, 2, width=32))
def test_without_fading_a_fine_view_always_tells(told: float, prediction: float) -> None:
    told32 = np.array([max(told, -0.875)], np.float32)
    assert faded(told32, np.array([prediction], np.float32), NEVER)[0] == min(told32[0], 0)  # to the bit


def test_the_mean_of_the_members_decides() -> None:
    columns = np.array([[0.9, 0.1, 0.2, 0.1]] * 2, np.float32)
    members = np.array([[0.7, 0.1], [0.7, 0.5]], np.float32)  # 0.4 and 0.6 in the mean
    assert READOUT.lowered(columns, members) == pytest.approx(np.array([[-0.15], [-0.2]]), abs=1e-6)
    tensors = READOUT.lowered(torch.from_numpy(columns), torch.from_numpy(members))
    assert tensors.numpy() == pytest.approx(READOUT.lowered(columns, members), abs=1e-7)


def test_what_a_fine_view_lowers_is_less_sure() -> None:
    members = np.array([[0.6, 0.5]] * 4, np.float32)
    change = np.array([[0.0], [-0.05], [-0.2], [-0.5]], np.float32)
    score, plain = combine(members, META)
    same, found = combine(members, META, change)
    assert np.array_equal(score, same) and found[0] == plain[0]  # to the bit
    assert found.astype(float) ** 2 - plain.astype(float) ** 2 == pytest.approx([0, 0.01, 0.03, 0.04], abs=1e-7)
    none = combine(members, replace(META, fine_variance=()), change)[1]
    assert np.array_equal(none, plain)
    tensors = combine_tensors(torch.from_numpy(members), META, torch.from_numpy(change))
    assert tensors[1].numpy() == pytest.approx(found, abs=1e-6)
