"""The meta-ensemble against its formula, image by image."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from metaqap_fast import kernels
from metaqap_fast.model import meta
from metaqap_fast.model.meta import MetaLearner, combine, combine_tensors

META = MetaLearner((0.7, -0.2, 0.4), 0.05, ((0.1, 0.004), (0.5, 0.02), (0.8, 0.001)), 1.5)
members = arrays(np.float32, st.tuples(st.integers(1, 40), st.just(3)), elements=st.floats(-1, 2, width=32))


def floor(score: float) -> float:
    if score <= 0.5:
        return 0.004 + max(0.0, score - 0.1) / 0.4 * 0.016
    return 0.02 - min(score - 0.5, 0.3) / 0.3 * 0.019


@given(members)
def test_formula(predictions: np.ndarray) -> None:
    score, uncertainty = combine(predictions, META)
    for row, s, u in zip(predictions.tolist(), score, uncertainty, strict=True):
        raw = sum(w * p for w, p in zip(META.weights, row, strict=True)) + META.intercept
        spread2 = sum(abs(w) * (p - raw) ** 2 for w, p in zip(META.weights, row, strict=True)) / 1.3
        assert math.isclose(s, min(max(raw, 0.0), 1.0), rel_tol=1e-6, abs_tol=1e-6)
        assert math.isclose(u, math.sqrt(floor(raw) + 1.5 * spread2), rel_tol=1e-6)


@given(members)
def test_a_row_does_not_depend_on_its_batch(predictions: np.ndarray) -> None:
    together = np.stack(combine(predictions, META))
    alone = np.concatenate([np.stack(combine(row[None], META)) for row in predictions], axis=1)
    assert np.array_equal(together, alone)


@settings(deadline=None)  # the first call imports torch
@given(members)
def test_the_operator_gives_the_same_scores(predictions: np.ndarray) -> None:
    score, uncertainty = combine(predictions, META)
    tensors = combine_tensors(torch.from_numpy(predictions.copy()), META)
    assert np.allclose(tensors[0], score, rtol=1e-5, atol=1e-6)
    assert np.allclose(tensors[1], uncertainty, rtol=1e-5)


def test_a_failed_row_on_a_device_is_nan_and_alone() -> None:
    predictions = torch.tensor([[0.5, 0.6, 0.7], [float("nan"), 0.5, 0.5], [0.1, 0.2, 0.3]])
    score, uncertainty = combine_tensors(predictions, META)
    assert list(torch.isnan(score)) == [False, True, False] and not torch.isnan(uncertainty[::2]).any()


def test_where_triton_cannot_compile_torch_combines(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A slim machine has no C compiler, which Triton needs for its launcher."""
    real = kernels.combine

    def slim(*arguments: Any, impl: str = "triton", **options: Any) -> Any:
        if impl == "triton":
            raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")
        return real(*arguments, impl=impl, **options)

    predictions = torch.rand(5, 3)
    wanted = combine_tensors(predictions, META)
    monkeypatch.setattr(kernels, "combine", slim)
    meta._constants.cache_clear()
    with caplog.at_level(logging.WARNING):
        found = [combine_tensors(predictions, META) for _ in range(3)]
    meta._constants.cache_clear()
    assert all(torch.allclose(a, b, atol=1e-6) for one in found for a, b in zip(one, wanted, strict=True))
    assert [r.message.partition(" for")[0] for r in caplog.records] == ["scores are combined by torch,"]


def test_weights_are_brought_to_a_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """To bring them there in every batch makes the host wait for the batch before."""
    combine_tensors(torch.rand(5, 3), META)
    monkeypatch.setattr(torch, "tensor", lambda *_, **__: pytest.fail("a blocking copy"))
    combine_tensors(torch.rand(4, 3), META)
