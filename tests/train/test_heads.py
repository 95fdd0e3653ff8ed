"""Heads fitted anew: the least squares that they say they are."""

from __future__ import annotations

import numpy as np
import pytest

from metaqap_fast.train.heads import Change, gram, join, raw, solve, standard, standardised

RNG = np.random.default_rng(1)
POOLED = RNG.normal(3, 2, (60, 40)).astype(np.float16)
POOLED[:, 7] = 1  # a channel that never varies


def asked() -> Change:
    pairs = Change(np.arange(1, 30), np.zeros(29, np.int64), RNG.normal(0, 1, 29), np.full(29, 2.0))
    return join(pairs, Change(np.arange(30, 60), np.full(30, -1), np.zeros(30), np.full(30, 0.5)))


def test_it_is_ridge_regression_on_differences_and_rows() -> None:
    by = standard(POOLED[30:], POOLED[:30])
    x = standardised(POOLED, by)
    assert not x[:, 7].any()
    ask, penalty = asked(), 0.7
    change = raw(x, solve(gram(x), ask, penalty), by)
    rows = x.astype(np.float64)
    design = rows[ask.plus] - np.where(ask.minus[:, None] >= 0, rows[ask.minus], 0)
    weighted = design * ask.weight[:, None]
    normal = weighted.T @ design + penalty * rows.shape[1] * np.eye(rows.shape[1])
    wanted = np.linalg.solve(normal, weighted.T @ ask.value) * by.inverse
    assert change == pytest.approx(wanted, abs=1e-4 * np.abs(wanted).max())


def test_a_small_penalty_gives_what_is_asked() -> None:
    by = standard(POOLED[30:], POOLED[:30])
    x = standardised(POOLED, by)
    ask = asked()[np.arange(59) < 10]
    coefficients = solve(gram(x), ask, 1e-4)
    given = gram(x) @ coefficients
    assert given[ask.plus] - given[ask.minus] == pytest.approx(ask.value, abs=0.02)
    change = POOLED.astype(np.float64) @ raw(x, coefficients, by)
    assert change - change.mean() == pytest.approx(given - given.mean(), abs=1e-3)
