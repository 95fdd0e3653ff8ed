"""Views to scores where predictions are arrays: tags and order, the mean over views, images without a view."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from metaqap_fast.engine.protocol import Batch, Engine
from metaqap_fast.infer import scored, view_means
from metaqap_fast.model.meta import MetaLearner, combine
from metaqap_fast.model.readout import Readout

META = MetaLearner((0.5, 0.25, 0.2), 0.1, ((0.0, 0.01), (1.0, 0.04)), 2.0)
READOUT = Readout((0, 1, 2))
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
    results = list(scored(Given(size, tensors), zip("abcd", PREDICTIONS, strict=True), META, READOUT))
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
    """Three members, two units; each unit is what all members give for it."""
    weights = ((0.125, 1.0, 0.0, 0.25), (0.0, 0.0, 1.0, 0.25))
    readout = Readout(
        (0, 3, 6), (range(1, 3), range(4, 6), range(7, 9)), weights, (0.0, 0.0, 0.0, -0.25), (0.0, 0.5, 0.0)
    )
    given = [RNG.random((count, 9), np.float32) for count in COUNTS]
    shares = [1, 2, 4, 5, 7, 8]
    given[0][:, shares] = [1, -0.5, 1, 0.5, -0.5, -0.5]  # 1.5 and -0.5
    given[1][:, shares], given[3][:, shares] = [0.1, 0.2, 0.1, 0.3, 0, 0], [-0.1, 0, 0, -0.2, 0, 0]
    results = dict(scored(Given(2, tensors), zip("abcd", given, strict=True), META, readout))
    assert results["a"].reasons == pytest.approx([1.0, 0.0, 0.125**2]) and np.isnan(results["c"].reasons).all()
    assert results["b"].reasons == pytest.approx([0.2**2, 0.5**2, 0], abs=1e-6)
    assert [results[tag].worst for tag in "abcd"] == [0, 1, -1, -1]
    assert [results[tag].finite for tag in "abcd"] == [True, True, False, True]
    for tag, change in (("a", 0.1875), ("b", 0.025), ("d", 0.0)):
        members = given["abcd".index(tag)].mean(0)[[0, 3, 6]] + np.float32(change)
        assert results[tag].members == pytest.approx(members, abs=1e-6)
        assert results[tag].score == pytest.approx(combine(members[None], META)[0][0], abs=1e-6)


def test_a_unit_that_is_no_number_is_no_score() -> None:
    readout = Readout((0,), (range(1, 2),), ((1.0, 1.0),), (0.0, 0.0), (0.0,))
    meta = MetaLearner((1.0,), 0.0, ((0.0, 0.01),), 1.0)
    rows = np.array([[0.5, np.nan]], np.float32)
    for tensors in (False, True):
        ((_, result),) = scored(Given(1, tensors), [("a", rows)], meta, readout)
        assert not result.finite and np.isnan(result.score)


@pytest.mark.parametrize("tensors", [False, True])
def test_a_batch_with_fewer_results_than_images_is_an_error(tensors: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that is missing without a word would be an image that is never scored."""
    engine, rows = Given(1, tensors), PREDICTIONS[0]
    batch = Batch(["a", "b"], [1], torch.from_numpy(rows) if tensors else rows)
    monkeypatch.setattr(engine, "batches", lambda items: iter([batch]))
    with pytest.raises(ValueError, match="zip"):
        list(scored(engine, [], META, READOUT))


def test_an_array_engine_gives_the_same_bits_in_any_batch() -> None:
    alone = [result for _, result in scored(Given(1), enumerate(PREDICTIONS), META, READOUT)]
    together = [result for _, result in scored(Given(4), enumerate(PREDICTIONS), META, READOUT)]
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

    readout = Readout((0, 2), (range(1, 2), range(1, 2)), ((0.5, 1.0),), (0.0, 0.0), (0.0,))
    meta = MetaLearner((0.5, 0.25), 0.1, ((0.0, 0.01),), 2.0)
    results = [result for _, result in scored(Reused(2, True), enumerate(PREDICTIONS[:2]), meta, readout)]
    before = [(result.members.copy(), result.reasons.copy()) for result in results]
    memory[0][:] = 9
    for result, (members, reasons) in zip(results, before, strict=True):
        assert np.array_equal(result.members, members) and np.array_equal(result.reasons, reasons)


def test_views_are_added_in_their_order() -> None:
    rows = torch.from_numpy(np.concatenate(PREDICTIONS))
    means, fine = view_means(rows, COUNTS, [False] * 4)
    assert fine is None
    assert means.shape == (4, 3) and bool(means[2].isnan().all())
    assert torch.equal(means[0], rows[0]) and torch.equal(means[3], (rows[4] + rows[5]) / 2)
    assert torch.equal(means[1], (rows[1] + rows[2] + rows[3]) / 3)
    assert view_means(rows[:2], [1, 1], [False, False])[0].data_ptr() == rows.data_ptr()


@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize("size", [1, 4])
def test_a_fine_view_lowers_the_score_and_is_in_no_mean(size: int, tensors: bool) -> None:
    """Two members with two units each, of which the second reads fine views."""
    fading = (-1.5, -0.5, 0.25)
    readout = Readout((0, 3), (range(1, 3), range(4, 6)), ((0.5, 1.0),), (0.0, 0.0), (0.0,), (-2.0,), 0.25, fading)
    meta = MetaLearner((0.5, 0.5), 0.0, ((0.0, 0.01),), 1.0, fine_variance=((0.0, 0.0), (1.0, 1.0)))
    given = [RNG.random((count, 6), np.float32) for count in (3, 1, 0, 2, 2, 2)]
    given[0][-1, [2, 5]] = [0.4, -0.1]  # 0.25 - 2 * 0.3
    given[3][-1, [2, 5]] = [0.2, -0.1]  # 0.25 - 2 * 0.1 is above 0
    given[4][-1, [2, 5]] = [9, 9]  # of a view like the others
    given[5][0, [0, 1, 3, 4]] = [-1.0, 0, -1.0, 0]  # halfway between poor and fair
    given[5][-1, [2, 5]] = [0.2, 0.3]
    results = dict(
        scored(Given(size, tensors), zip("abcdef", given, strict=True), meta, readout, set("adf").__contains__)
    )
    for tag, rows, lowered in (
        ("a", given[0][:-1], -0.35),
        ("b", given[1], 0),
        ("d", given[3][:-1], 0),
        ("e", given[4], 0),
        ("f", given[5][:-1], -0.5 * 0.75 - 0.5 * 0.25),
    ):
        mean = rows.mean(0)
        unit = max(0.0, float(mean[1] + mean[4]))
        assert results[tag].members == pytest.approx(mean[[0, 3]] + 0.5 * unit + lowered, abs=1e-6)
        assert results[tag].reasons == pytest.approx([min(1.0, unit**2)], abs=1e-6)
        _, uncertainty = combine(results[tag].members[None], meta)
        assert results[tag].uncertainty == pytest.approx((uncertainty[0] ** 2 - lowered) ** 0.5, abs=1e-6)
    assert np.isnan(results["c"].members).all()
