"""Units that read fine views: what they lower, and what they leave."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from metaqap_fast.model.meta import MetaLearner
from metaqap_fast.train import finer
from metaqap_fast.train.detail import Detail
from metaqap_fast.train.large import Large
from metaqap_fast.train.units import Units

COPIES, WIDTH = 6, 60
META = MetaLearner((0.5, 0.5), 0.0, ((0.0, 0.01),), 0.0)


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
    return finer.lacks(large, np.full((len(large.target), 2), 0.7), 0.5 + large.target / 2, META)


def test_what_copies_should_score_is_a_share_of_their_photographs_score(taught: finer.Lacks) -> None:
    score = np.arange(12.0)
    large = world(2, 0)
    assert finer.originals(large).tolist() == [0] * COPIES + [COPIES] * COPIES
    meta = replace(META, weights=(0.5, 1.5), intercept=1.0)
    said = np.stack([score / 2, score / 2], 1) - 0.5
    found = finer.lacks(large, said, np.full(12, 0.5), meta)
    wanted = np.array([0.0] * COPIES + [COPIES / 2] * COPIES)
    assert found.lack == pytest.approx((wanted - score) / 2) and found.prediction == pytest.approx(score / 2 - 0.5)
    poor, fair, lost = found.fading
    assert (2 * poor + 1, 2 * fair + 1, 2 * lost) == pytest.approx((finer.POOR, finer.FAIR, finer.LOST))


def test_damage_is_lowered_and_undamaged_photographs_stay(taught: finer.Lacks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finer, "STEPS", 300)
    judged = world(40, 2)
    made = finer.fit(taught, judged, 0)
    assert made.weights.shape == (finer.LAYERS * finer.UNITS, 1)
    change = finer.lowered(made, judged.fine, np.full(len(judged.target), 0.7))
    itself = np.unique(finer.originals(judged))
    assert change.max() <= 0 and change[itself].mean() == pytest.approx(-finer.STAYS, abs=1e-3)
    copies = np.setdiff1d(np.arange(len(change)), itself)
    wanted = 0.7 * (judged.target[copies] - 1) / 2
    assert np.corrcoef(change[copies], wanted)[0, 1] > 0.8
    assert 1.2 * wanted.mean() < change[copies].mean() < 0.5 * wanted.mean()


@pytest.mark.parametrize("change", [np.array([-0.3, 0.1, 0.2]), np.array([0.5, 0.6]), np.array([-0.5, -0.6])])
def test_where_the_score_is_lowered_from(change: np.ndarray) -> None:
    assert np.minimum(change + finer.stays(change), 0).mean() == pytest.approx(-finer.STAYS, abs=1e-6)


def test_copies_that_are_poor_without_a_fine_view_teach_nothing(
    taught: finer.Lacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they lack is nonsense here, and the others are fitted as if they were not there."""
    monkeypatch.setattr(finer, "STEPS", 300)
    poor = taught.large.photograph % 2 == 1
    poor[np.unique(finer.originals(taught.large))] = False
    lack = np.where(poor, 5.0, taught.lack)
    level = np.where(poor, finer.POOR, taught.prediction)
    judged = world(40, 2)
    made = finer.fit(finer.Lacks(taught.large, level, lack, taught.fading), judged, 0)
    change = finer.lowered(made, judged.fine, np.full(len(judged.target), 0.7))
    copies = np.setdiff1d(np.arange(len(change)), finer.originals(judged))
    assert np.corrcoef(change[copies], judged.target[copies])[0, 1] > 0.8 and change[copies].mean() < -0.05
    assert finer.lowered(made, judged.fine, np.full(len(change), 0.2)) == pytest.approx(-finer.LOST)


def test_units_that_agree_more_with_metrics_are_kept() -> None:
    """Those that a bundle had, or new ones."""
    old, new = (Units([], np.full(2, at), np.ones((2, 1)), np.zeros(1), np.zeros(0), ()) for at in (0, 1))

    class Fits(Detail):
        def __init__(self, better: Units) -> None:
            super().__init__(SimpleNamespace(meta=META), None)  # type: ignore[arg-type]
            self.best = better

        def judge(self, made: Units | None = None, fine: Units | None = None) -> dict[str, float]:
            assert fine is not None
            return {"over all": 0.8 if fine.start is self.best.start else 0.7}

    for better in (old, new):
        kept = Fits(better).better(old, new, old)
        assert kept is not None and kept.start is better.start
    kept = Fits(old).better(old, new, old)
    assert kept is not None and kept.fading == finer.fading(META)
    kept = Fits(new).better(old, None, old)
    assert kept is not None and kept.start is old.start and kept.fading == finer.fading(META)
    other = replace(new, lines=2000)  # which the copies were not seen at by the old ones
    assert Fits(old).better(old, other, old) is other
    assert Fits(new).better(old, new, None) is new
    assert Fits(old).better(old, None, None) is None


def test_without_copies_there_are_no_figures_of_them() -> None:
    detail = Detail(SimpleNamespace(meta=META), SimpleNamespace(judged_large=None))  # type: ignore[arg-type]
    assert detail.figures(Units([], np.zeros(0), np.zeros((0, 1)), np.zeros(1), np.zeros(0), ()), None) == {}
