"""Units that read fine views: what they lower, and what they leave."""

from __future__ import annotations

import numpy as np
import pytest

from metaqap_fast.train import finer
from metaqap_fast.train.large import Large
from metaqap_fast.train.refit_run import better_fine
from metaqap_fast.train.units import Units

COPIES, WIDTH = 6, 60


def world(photographs: int, seed: int) -> Large:
    """Taps in whose fine views some columns say what a copy has lost, and others what it shows."""
    rng = np.random.default_rng(seed)
    lost = np.concatenate([[0, *rng.uniform(0.1, 1, COPIES - 1)] for _ in range(photographs)])
    content = np.repeat(np.arange(photographs), COPIES)
    shown = rng.normal(0, 1, (photographs, WIDTH))[content]
    members = []
    for _ in range(2):
        fine = shown + rng.normal(0, 0.05, shown.shape)
        fine[:, :10] = 3 * lost[:, None] + rng.normal(0, 0.3, (len(lost), 10))
        members.append(fine.astype(np.float16))
    plain = [np.zeros((len(lost), WIDTH), np.float16)] * 2
    return Large(plain, members, 1 - lost, content, np.zeros(len(lost), np.int64))


@pytest.fixture(scope="module")
def taught() -> finer.Lacks:
    large = world(80, 1)
    return finer.lacks(large, np.full(len(large.target), 0.7), 0.5 + large.target / 2)


def test_what_copies_should_score_is_a_share_of_their_photographs_score(taught: finer.Lacks) -> None:
    score = np.arange(12.0)
    large = world(2, 0)
    assert finer.originals(large).tolist() == [0] * COPIES + [COPIES] * COPIES
    assert finer.lacks(large, score, np.full(12, 0.5)).wanted.tolist() == [0.0] * COPIES + [COPIES / 2] * COPIES


def test_damage_is_lowered_and_undamaged_photographs_stay(taught: finer.Lacks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finer, "STEPS", 300)
    judged = world(40, 2)
    made = finer.fit(taught, judged, 0)
    assert made.weights.shape == (finer.LAYERS * finer.UNITS, 1)
    change, itself = finer.lowered(made, judged), np.unique(finer.originals(judged))
    assert change.max() <= 0 and change[itself].mean() == pytest.approx(-finer.STAYS, abs=1e-3)
    copies = np.setdiff1d(np.arange(len(change)), itself)
    wanted = 0.7 * (judged.target[copies] - 1) / 2
    assert np.corrcoef(change[copies], wanted)[0, 1] > 0.8
    assert 1.2 * wanted.mean() < change[copies].mean() < 0.5 * wanted.mean()


@pytest.mark.parametrize("change", [np.array([-0.3, 0.1, 0.2]), np.array([0.5, 0.6]), np.array([-0.5, -0.6])])
def test_where_the_score_is_lowered_from(change: np.ndarray) -> None:
    assert np.minimum(change + finer.stays(change), 0).mean() == pytest.approx(-finer.STAYS, abs=1e-6)


def test_units_that_agree_more_with_metrics_are_kept() -> None:
    """Those that a bundle had, or new ones."""
    old, new = (Units([], np.zeros(2), np.ones((2, 1)), np.zeros(1), np.zeros(0), ()) for _ in range(2))

    class Fits:
        def __init__(self, has_large: bool, better: Units) -> None:
            self.has_large, self.better = has_large, better

        def judge_large(self, _: Units, fine: Units) -> dict[str, float]:
            return {"over all": 0.8 if fine is self.better else 0.7}

    for better in (old, new):
        assert better_fine(Fits(True, better), old, [new, old]) is better  # type: ignore[arg-type]
    assert better_fine(Fits(True, new), old, [None, old]) is old  # type: ignore[arg-type]
    assert better_fine(Fits(False, old), old, [new, old]) is new  # type: ignore[arg-type]
    assert better_fine(Fits(True, old), old, [None, None]) is None  # type: ignore[arg-type]
