"""What is asked of reasons, and that a stated share of good photographs is flagged."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from metaqap_fast.model.readout import LEVEL
from metaqap_fast.train.damage import KINDS, Step, named
from metaqap_fast.train.opinion import opinions
from metaqap_fast.train.reasons import CAUSES, FLAGGED, REASONS, calibrated, limit, line, severities, steeper
from metaqap_fast.train.rungs import Rung

SAID = opinions(np.tile(np.linspace(4.5, 1.2, 5), (25, 1)))


def given(*names: str, level: int = 4) -> dict[str, float]:
    row = severities([Rung(0, tuple(Step(named(name), level) for name in names), 0)], SAID)[0]
    return {reason: float(value) for reason, value in zip(REASONS, row, strict=True) if value != 0}


def test_causes_are_of_kinds_that_there_are() -> None:
    assert set(CAUSES) <= {kind.name for kind in KINDS}
    assert {cause.removeprefix("~") for causes in CAUSES.values() for cause in causes} == set(REASONS)


def test_severities_follow_opinions_and_likeness_teaches_nothing() -> None:
    assert given() == {} and given("mirrored", level=0) == {}
    mild, severe = given("haze", level=0), given("haze")
    assert 0 < mild["low contrast"] < 0.1 < severe["low contrast"] <= 1 and np.isnan(severe["overexposed"])
    both = given("white noise", "motion blur")
    assert both["noise"] == both["motion blur"] == 1 and np.isnan(both["out of focus"])
    assert given("lens blur", "motion blur")["out of focus"] == 1  # one that is sure outweighs one that is not


def test_a_share_of_good_photographs_is_flagged_and_the_worst_are_at_1() -> None:
    rng = np.random.default_rng(0)
    severity = np.where(rng.random((500, 2)) < 0.3, 0.9, 0.0)
    raw, good = severity * 3 + rng.normal(0, 0.1, (500, 2)) - 7, rng.normal(-7, 0.1, (1000, 2))
    factor, shift = calibrated(raw, good, severity)
    assert ((good * factor + shift) >= LEVEL).sum(0).tolist() == [3, 4]  # of a thousand, 4 at most
    assert (raw * factor + shift)[severity[:, 0] > 0.7, 0].mean() == pytest.approx(0.9)
    assert (factor > 0).all()
    steep = steeper(good * factor + shift)
    moved = np.minimum(good * factor + shift, LEVEL + (1 + steep) * (good * factor + shift - LEVEL))
    assert np.median(moved, axis=0) == pytest.approx(0, abs=1e-6) and steeper(np.full((3, 2), -1.0)).tolist() == [0, 0]
    factor, shift = calibrated(raw, good, severity * [1, 0])
    assert (factor[1], shift[1]) == (0, 0) and np.isfinite(factor).all()


def test_the_limit_is_not_named_and_what_is_typical_reaches_the_aim() -> None:
    factor, shift = line(-3.0, 2.0, 0.9)
    assert factor * 2.0 + shift == pytest.approx(0.9) and 0.49 < factor * -3.0 + shift < LEVEL
    for threshold, typical, aim in ((2.0, -3.0, 0.9), (-3.0, 2.0, 0.1)):  # told wrongly, or damage that nobody minds
        factor, shift = line(threshold, typical, aim)
        assert factor > 0 and factor * threshold + shift < LEVEL < factor * (threshold + 100) + shift


def test_others_exceed_the_limit_in_no_more_than_a_share_of_all_cases() -> None:
    rng = np.random.default_rng(1)
    shares = [norm.sf(limit(rng.normal(size=(600, 1)))[0]) for _ in range(400)]
    assert 0.92 < np.mean(np.array(shares) <= FLAGGED) < 0.99
    assert limit(np.arange(10.0)[:, None]) == 9  # so few that nothing is sure
