"""Strange pictures are told from photographs, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from metaqap_fast.model.readout import LEVEL
from metaqap_fast.train.components import components
from metaqap_fast.train.reasons import REASONS
from metaqap_fast.train.strange import NAME, beside, fit, is_judged
from metaqap_fast.train.units import Units

RNG = np.random.default_rng(5)
SHAPES = RNG.normal(0, 1, (30, 200))


def pictures(count: int, strange: bool = False) -> np.ndarray:
    """Raw taps: mixtures of shapes; the strange ones have three that photographs have little of."""
    how_much = RNG.normal(0, 1, (count, 30))
    how_much[:, :3] *= 0.2
    if strange:
        how_much[:, :3] += 4 * RNG.choice([-1, 1], (count, 3))  # either way: no line tells them apart
    return (1 + how_much @ SHAPES + RNG.normal(0, 0.3, (count, 200))).astype(np.float16)


def test_strange_pictures_are_unfamiliar_and_photographs_are_not() -> None:
    photographs, strange = pictures(2000), pictures(300, strange=True)
    part = components(photographs, pictures(100), 30, 1)
    seen = torch.from_numpy(part(strange))
    layer = fit(torch.from_numpy(part(photographs)), seen, 200, 0.1, 1)
    count = 1 + len(REASONS)
    before = Units(
        [RNG.normal(0, 1, (200, 4)).astype(np.float32)],
        np.ones(4),
        np.ones((4, count)),
        np.zeros(count),
        np.zeros(len(REASONS)),
    )
    made = beside(before, layer, [part], [pictures(1500)], seen)
    assert made.names == (*REASONS, NAME) and made.steeper.shape == (len(made.names),)
    others, again = pictures(2000), pictures(500, strange=True)
    assert (made([others])[:, -1] >= LEVEL).mean() < 0.02
    assert (made([again])[:, -1] >= LEVEL).mean() > 0.95 and np.median(made([again])[:, -1]) == pytest.approx(
        1, abs=0.2
    )
    assert np.allclose(made([others])[:, :-1], before([others]))


def test_what_a_picture_is_kept_for_depends_on_its_bytes(tmp_path: Path) -> None:
    found = []
    for i in range(200):
        one, other = (tmp_path / f"{name} {i}" for name in ("one", "other"))
        one.write_bytes(bytes([i]))
        other.write_bytes(bytes([i]))
        found.append(is_judged(one))
        assert is_judged(other) == found[-1]
    assert 20 < sum(found) < 60
