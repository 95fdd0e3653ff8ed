"""What is unlike photographs is marked, and photographs are not."""

from __future__ import annotations

import numpy as np
import pytest

from metaqap_fast.train.diagnose import area
from metaqap_fast.train.familiar import fit

RNG = np.random.default_rng(3)
SHAPES = RNG.normal(0, 1, (5, 300))


def photographs(count: int) -> np.ndarray:
    """Mixtures of five shapes, and a little noise."""
    return (2 + RNG.normal(0, 1, (count, 5)) @ SHAPES + RNG.normal(0, 0.3, (count, 300))).astype(np.float16)


def test_marks_of_photographs_are_spread_evenly_and_others_stand_out() -> None:
    seen = fit(photographs(400), photographs(300), 16)
    marks = seen.unfamiliar(photographs(300))
    assert np.quantile(marks, [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.1)
    assert seen.distance(photographs(300)).mean() == pytest.approx(1, abs=0.1)
    far = (2 + 4 * RNG.normal(0, 1, (50, 5)) @ SHAPES).astype(np.float16)  # along what photographs have, but farther
    new = (2 + RNG.normal(0, 1, (50, 5)) @ RNG.normal(0, 1, (5, 300))).astype(np.float16)  # other shapes
    for strange in (far, new):
        assert area(seen.unfamiliar(strange), marks) > 0.9 and seen.unfamiliar(strange).min() >= 0
    assert seen.unfamiliar(new).min() == 1


def test_few_photographs_have_few_directions() -> None:
    seen = fit(photographs(12), photographs(10))
    assert seen.directions.shape == (3, 300) and np.isfinite(seen.distance(photographs(4))).all()
    assert seen.directions @ seen.directions.T == pytest.approx(np.eye(3), abs=1e-4)
