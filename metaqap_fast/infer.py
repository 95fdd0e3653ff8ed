"""Views to scores: the engine, the mean over an image's views, and the meta-learner on the engine's device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.engine.protocol import Batch, Engine
from metaqap_fast.gpu_errors import translated
from metaqap_fast.model.meta import MetaLearner, combine, combine_tensors
from metaqap_fast.model.readout import NAMED, Readout
from metaqap_fast.records import Scored

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


def no_fine(tag: Any) -> bool:
    """Of views that are all of one kind."""
    return False


def scored(
    engine: Engine,
    items: Iterable[tuple[T, Any]],
    meta: MetaLearner,
    readout: Readout,
    fine: Callable[[T], bool] = no_fine,
) -> Iterator[tuple[T, Scored]]:
    """Views to scores: an engine and the meta-learner, on the engine's device.

    Predictions that stay on a GPU are combined there, and one batch is read back while the next runs; members, scores
    and uncertainties are all that crosses.

    Args:
        engine: what predicts.
        items: (tag, views [N, S, S, 3] uint8); N = 0 gives NaN.
        meta: the bundle's meta-learner.
        readout: the bundle's, which knows what the engine's columns are.
        fine: whether the last view of a tag's image is a fine one.
    """
    previous: tuple[list[T], Callable[[], NDArray[np.float32]]] | None = None
    for batch in engine.batches(items):
        if isinstance(batch.predictions, np.ndarray):
            yield from _combined(batch, batch.predictions, meta, readout, fine)
            continue
        with engine.on_stream(), translated(engine.device):
            has_fine = list(map(fine, batch.tags))
            rows = _rows(batch.predictions, batch.counts, has_fine, meta, readout)
            started = batch.tags, engine.read_back(rows)
        if previous is not None:
            yield from _finish(*previous, readout)
        previous = started
    if previous is not None:
        yield from _finish(*previous, readout)


def _combined(
    batch: Batch[T],
    predictions: NDArray[np.float32],
    meta: MetaLearner,
    readout: Readout,
    fine: Callable[[T], bool],
) -> Iterator[tuple[T, Scored]]:
    """Image by image, so that none depends on what it was run with."""
    start = 0
    none = np.full((1, readout.columns), np.nan, np.float32)
    for tag, count in zip(batch.tags, batch.counts, strict=True):
        rows = predictions[start : start + count]
        has_fine = fine(tag)
        columns = rows[: count - has_fine].mean(axis=0, keepdims=True) if count else none
        members, reasons = readout(columns)
        change = readout.lowered(rows[-1:], members) if has_fine else None
        if change is not None:
            members = members + change
        yield tag, next(_results(members, *combine(members, meta, change), reasons))
        start += count


def _rows(predictions: Tensor, counts: list[int], has_fine: list[bool], meta: MetaLearner, readout: Readout) -> Tensor:
    """Members, score, uncertainty and reasons of each image [B, M + 2 + R], on the device."""
    import torch

    with torch.inference_mode():
        means, last = view_means(predictions, counts, has_fine)
        members, reasons = readout(means)
        change = None
        if last is not None:
            rows, which = last
            change = torch.where(which[:, None], readout.lowered(rows, members), 0.0)
            members = members + change
        score, uncertainty = combine_tensors(members, meta, change)
        return torch.cat([members, score[:, None], uncertainty[:, None], reasons], 1)


def _finish(tags: list[T], rows: Callable[[], NDArray[np.float32]], readout: Readout) -> Iterator[tuple[T, Scored]]:
    found, count = rows().copy(), len(readout.scores)  # the memory that was read into is used again
    columns = found[:, :count], found[:, count], found[:, count + 1], found[:, count + 2 :]
    yield from zip(tags, _results(*columns), strict=True)


def _results(
    members: NDArray[np.float32],
    score: NDArray[np.float32],
    uncertainty: NDArray[np.float32],
    reasons: NDArray[np.float32],
) -> Iterator[Scored]:
    """Of a batch: members [B, M], score and uncertainty [B], reasons [B, R]."""
    reasons = reasons.clip(0, 1)
    finite: list[bool] = np.all(np.isfinite(members), axis=1).tolist()
    worst = np.full(len(members), -1)
    if reasons.shape[1]:
        worst = np.where(reasons.max(1) >= NAMED, reasons.argmax(1), -1)
    # Converted for each batch, not for each image.
    return map(Scored, members, score.tolist(), uncertainty.tolist(), reasons, finite, worst.tolist())


def view_means(
    predictions: Tensor, counts: list[int], has_fine: list[bool]
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Mean over each image's views: [sum(counts), columns] -> [len(counts), columns]; NaN where a count is 0.

    Views are added in their order, one at a time, whatever else is in the batch: the same bits in any batch. Fine views
    are left out; if there are any, the rows of the images' last views, and which of them are fine, are given beside.
    """
    import torch

    if all(count == 1 for count in counts):
        return predictions, None
    # From pinned memory, else the host waits for the engine here.
    made = torch.tensor([counts, has_fine], pin_memory=predictions.is_cuda).to(predictions.device, non_blocking=True)
    views, fine = made
    number, first = views - fine, views.cumsum(0) - views
    total = torch.zeros(len(counts), predictions.shape[1], device=predictions.device)
    for view in range(max(counts)):
        rows = predictions[(first + view).clamp(max=len(predictions) - 1)]
        total = torch.where((view < number)[:, None], total + rows, total)
    means = total / number[:, None]
    if not any(has_fine):
        return means, None
    return means, (predictions[(first + number).clamp(max=len(predictions) - 1)], fine.bool())
