"""Every kind of damage: of one shape, from its seed alone, and worse from level to level."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from metaqap_fast.train.damage import KADIS, KINDS, LADDERS, PROBES, Step, damaged, named

CHANGED = [kind for kind in LADDERS if kind >= KADIS]  # those of KADIS have tests of their own
QUICK = [named(name) for name in ("WebP", "upscaled, bicubic", "smear", "haze", "lost blocks")]


@pytest.fixture(scope="module")
def view(photos: dict[str, Image.Image]) -> np.ndarray:
    return np.asarray(photos["astronaut"].convert("RGB").resize((128, 128)))


def far(view: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(view.astype(float) - other).mean())


@pytest.mark.parametrize(
    "kind",
    [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.full) for kind in CHANGED],
    ids=lambda kind: KINDS[kind].name,
)
def test_each_level_is_farther_from_the_photograph(view: np.ndarray, kind: int) -> None:
    levels = [damaged(view, [Step(kind, level)], seed=3) for level in range(5)]
    assert all(one.shape == view.shape and one.dtype == np.uint8 for one in levels)
    distances = [far(view, one) for one in levels]
    assert distances == sorted(distances) and 0 < distances[0] < 0.8 * distances[4]
    assert np.array_equal(levels[2], damaged(view, [Step(kind, 2)], seed=3))
    opinions = KINDS[kind].opinions
    assert opinions is not None and len(opinions) == 5 and list(opinions) == sorted(opinions, reverse=True)


def test_a_view_without_steps_is_itself_and_steps_follow_each_other(view: np.ndarray) -> None:
    assert damaged(view, [], 1) is view
    first, second = Step(named("negative"), 0), Step(named("under-exposure"), 4)
    both = damaged(view, [first, second], 1)
    assert np.abs(both.astype(int) - damaged(damaged(view, [first], 1), [second], 1)).max() <= 1
    assert far(both, damaged(view, [second, first], 1)) > 50


def test_what_is_lost_at_one_level_is_lost_at_the_next(view: np.ndarray) -> None:
    lost = [(damaged(view, [Step(named("lost blocks"), level)], 4) != view).any(2) for level in range(5)]
    assert lost[4].sum() > lost[0].sum() > 0
    assert not any((fewer & ~more).any() for fewer, more in itertools.pairwise(lost))


def test_changes_that_do_no_harm(view: np.ndarray) -> None:
    gray = damaged(view, [Step(named("black and white"), 0)], 1)
    assert (gray[..., 0] == gray[..., 1]).all() and (gray[..., 1] == gray[..., 2]).all()
    assert np.array_equal(damaged(view, [Step(named("mirrored"), 0)], 1), view[:, ::-1])
    assert np.array_equal(damaged(view, [Step(named("negative"), 0)], 1), 255 - view)
    small = damaged(view, [Step(named("half the size"), 0)], 1)
    assert np.array_equal(small[:, 64:], small[:, 63::-1]) and far(small[:64, :64], view[::2, ::2]) < 12
    assert all(len(KINDS[kind].levels) == 1 for kind in PROBES)


def test_what_a_kind_is_like_is_a_rated_one() -> None:
    rated = {kind.name for kind in KINDS[:KADIS]}
    assert {kind.like for kind in KINDS[KADIS:]} - {""} <= rated and len({kind.name for kind in KINDS}) == len(KINDS)
