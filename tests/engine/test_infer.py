"""Views to scores where predictions are arrays: tags and order, the mean over views, images without a view."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from metaqap_fast.engine.protocol import Batch, Engine
from metaqap_fast.infer import scored, view_means
from metaqap_fast.model.bundle import Layout
from metaqap_fast.model.meta import MetaLearner, combine

META = MetaLearner((0.5, 0.25, 0.2), 0.1, ((0.0, 0.01), (1.0, 0.04)), 2.0)
LAYOUT = Layout((0, 1, 2))
COUNTS = [1, 3, 0, 2]
RNG = np.random.default_rng(5)
PREDICTIONS = [RNG.random((count, 3), np.float32) for count in COUNTS]


class Given(Engine):
    """An engine whose predictions are its items; in batches of `size` images, as arrays or as tensors."""

    device = "cpu"

    def __init__(self, size: int, tensors: bool = False) -> None:
        self.size, self.tensors = size, tensors

    def batches(self, items: Iterable[tuple[Any, Any]]) -> Iterator[Batch[Any]]:
        listed = list(items)
        for start in range(0, len(listed), self.size):
            part = listed[start : start + self.size]
            rows = np.concatenate([rows for _, rows in part])
            counts = [len(rows) for _, rows in part]
            yield Batch([tag for tag, _ in part], counts, torch.from_numpy(rows) if self.tensors else rows)


@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_each_image_gets_the_mean_of_its_own_views(size: int, tensors: bool) -> None:
    results = list(scored(Given(size, tensors), zip("abcd", PREDICTIONS, strict=True), META, LAYOUT))
    assert [tag for tag, _ in results] == list("abcd")
    for (_, result), rows in zip(results, PREDICTIONS, strict=True):
        assert result.finite == bool(len(rows)) and result.worst == -1
        if not len(rows):
            assert result.members.shape == (3,) and np.isnan([*result.members, result.score, result.uncertainty]).all()
            continue
        score, uncertainty = combine(rows.mean(0)[None], META)
        assert result.members == pytest.approx(rows.mean(0), abs=1e-6)
        assert (result.score, result.uncertainty) == pytest.approx((score[0], uncertainty[0]), abs=1e-6)
        assert isinstance(result.score, float) and isinstance(result.uncertainty, float)


@pytest.mark.parametrize("tensors", [False, True])
def test_reasons_stand_beside_predictions_and_are_cut_to_0_and_1(tensors: bool) -> None:
    layout = Layout((0, 2, 4), (3, 1, 5))
    given = [RNG.random((count, 6), np.float32) for count in COUNTS]
    given[0][:, [1, 3, 5]] = [-0.5, 1.5, 0.25]
    given[1][:, [1, 3, 5]], given[3][:, [1, 3, 5]] = [0.1, 0.2, 0.3], [-0.1, 0, -0.2]
    results = dict(scored(Given(2, tensors), zip("abcd", given, strict=True), META, layout))
    assert results["a"].reasons.tolist() == [1.0, 0.0, 0.25] and np.isnan(results["c"].reasons).all()
    assert [results[tag].worst for tag in "abcd"] == [0, 2, -1, -1]  # of those over 0
    assert [results[tag].finite for tag in "abcd"] == [True, True, False, True]
    for tag in "abd":
        rows = given["abcd".index(tag)]
        assert results[tag].members == pytest.approx(rows.mean(0)[[0, 2, 4]], abs=1e-6)
        assert results[tag].score == pytest.approx(combine(rows.mean(0)[None, [0, 2, 4]], META)[0][0], abs=1e-6)


@pytest.mark.parametrize("tensors", [False, True])
def test_a_batch_with_fewer_results_than_images_is_an_error(tensors: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that is missing without a word would be an image that is never scored."""
    engine, rows = Given(1, tensors), PREDICTIONS[0]
    batch = Batch(["a", "b"], [1], torch.from_numpy(rows) if tensors else rows)
    monkeypatch.setattr(engine, "batches", lambda items: iter([batch]))
    with pytest.raises(ValueError, match="zip"):
        list(scored(engine, [], META, LAYOUT))


def test_an_array_engine_gives_the_same_bits_in_any_batch() -> None:
    alone = [result for _, result in scored(Given(1), enumerate(PREDICTIONS), META, LAYOUT)]
    together = [result for _, result in scored(Given(4), enumerate(PREDICTIONS), META, LAYOUT)]
    for one, other in zip(alone, together, strict=True):
        assert one.members.tobytes() == other.members.tobytes()
        assert np.array_equal([one.score, one.uncertainty], [other.score, other.uncertainty], equal_nan=True)


def test_members_of_earlier_images_are_not_overwritten() -> None:
    """Rows are copied out of a batch's memory: an engine may use it again."""
    memory: list[Any] = []

    class Reused(Given):
        def read_back(self, rows: Any) -> Any:
            memory.append(rows.numpy())
            return lambda: memory[-1]

    layout = Layout((0, 2), (1,))
    meta = MetaLearner((0.5, 0.25), 0.1, ((0.0, 0.01),), 2.0)
    results = [result for _, result in scored(Reused(2, True), enumerate(PREDICTIONS[:2]), meta, layout)]
    before = [(result.members.copy(), result.reasons.copy()) for result in results]
    memory[0][:] = 9
    for result, (members, reasons) in zip(results, before, strict=True):
        assert np.array_equal(result.members, members) and np.array_equal(result.reasons, reasons)


def test_views_are_added_in_their_order() -> None:
    rows = torch.from_numpy(np.concatenate(PREDICTIONS))
    means = view_means(rows, COUNTS)
    assert means.shape == (4, 3) and bool(means[2].isnan().all())
    assert torch.equal(means[0], rows[0]) and torch.equal(means[3], (rows[4] + rows[5]) / 2)
    assert torch.equal(means[1], (rows[1] + rows[2] + rows[3]) / 3)
    assert view_means(rows[:2], [1, 1]).data_ptr() == rows.data_ptr()
