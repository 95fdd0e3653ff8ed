"""The benchmark of reasons: what is damaged, and how figures come of severities."""

from __future__ import annotations

import numpy as np
import pytest

from metaqap_fast.bench import reasons as bench
from metaqap_fast.train.damage import KINDS
from metaqap_fast.train.reasons import REASONS

BLUR, NOISE = REASONS.index("out of focus"), REASONS.index("noise")


def test_each_kind_that_is_a_reason_is_there_at_each_level() -> None:
    steps = bench.planned(2)
    names = [KINDS[step.kind].name for rung in steps for step in rung.steps]
    assert names.count("lens blur") == names.count("JPEG") == 10 and "jitter" not in names and "sepia" not in names
    assert {rung.photograph for rung in steps} == {0, 1} and len({rung.seed for rung in steps}) == 2


def world() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Twelve blurred images, told when severe and not when mild, and ten untouched, one of them noisy."""
    severity = np.zeros((12, len(REASONS)))
    severity[:, BLUR] = np.repeat([0.2, 0.5, 0.9], 4)
    severity[0, NOISE] = np.nan  # is not asked
    damaged = np.full((12, len(REASONS)), -1.0)
    damaged[:, BLUR] = np.repeat([-0.5, 0.1, 0.8], 4)
    damaged[11, NOISE] = 0.9
    untouched = np.full((10, len(REASONS)), -1.0)
    untouched[:5, BLUR], untouched[5:, BLUR], untouched[3, NOISE] = -2.0, 0.0, 0.4
    return damaged, untouched, severity


def test_figures_of_a_reason() -> None:
    found = bench.table(*world())
    blur = found["out of focus"]
    assert (blur["AUC, mild"], blur["AUC, middle"], blur["AUC, severe"]) == (0.5, 1.0, 1.0)
    assert blur["of untouched"] == 0 and found["noise"]["of untouched"] == pytest.approx(0.1)
    assert blur["severe is called"] == {"out of focus": 0.75, "noise": 0.25}
    assert "AUC, mild" not in found["noise"]  # there is none


def test_other_measures_stand_beside_ours() -> None:
    values = {"Laplacian variance": np.arange(12.0)}
    found = bench.beside(*world(), values, {"Laplacian variance": np.full(10, 5.5)})
    row = found["Laplacian variance"]["out of focus"]
    assert row == {"mild": 0, "mild, ours": 0.5, "middle": 0.5, "middle, ours": 1, "severe": 1, "severe, ours": 1}
    assert not found["Laplacian variance"]["motion blur"]
