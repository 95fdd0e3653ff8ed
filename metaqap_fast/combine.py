"""Members to score and uncertainty: the meta-learner.

On arrays in float64; on torch tensors, which is what a GPU's engines give, by the fused operator of
`metaqap_fast.kernels`, so that nothing but its results leaves the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.bundle import Meta

if TYPE_CHECKING:
    from torch import Tensor

    from metaqap_fast.engine.device import Batch

T = TypeVar("T")

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scored:
    """One image's members [M] (the mean over its views), score and uncertainty; NaN without views."""

    members: F32
    score: float
    uncertainty: float


def scored(engine: Any, items: Iterable[tuple[T, Any]], meta: Meta) -> Iterator[tuple[T, Scored]]:
    """Views to scores: an engine and the meta-learner, on the engine's device.

    Args:
        engine: `metaqap_fast.engine.Engine`; with `batches` its predictions stay on a GPU until they are combined.
        items: (tag, views [N, S, S, 3] uint8).
        meta: the bundle's meta-learner.
    """
    if hasattr(engine, "batches"):
        yield from _on_device(engine, items, meta)
        return
    for tag, predictions in engine.predict(items):
        if not len(predictions):
            yield tag, Scored(np.full(len(meta.weights), np.nan, np.float32), np.nan, np.nan)
            continue
        members = predictions.mean(axis=0)
        score, uncertainty = combine(members[None], meta)
        yield tag, Scored(members, float(score[0]), float(uncertainty[0]))


def _on_device(engine: Any, items: Iterable[tuple[T, Any]], meta: Meta) -> Iterator[tuple[T, Scored]]:
    """One batch is read back while the next runs; members, scores and uncertainties are all that crosses."""
    previous: tuple[list[T], Any] | None = None
    for batch in engine.batches(items):
        with engine.on_stream():
            started = _start(batch, meta)
        if previous is not None:
            yield from _finish(*previous)
        previous = batch.tags, started
    if previous is not None:
        yield from _finish(*previous)


def _start(batch: Batch[T], meta: Meta) -> tuple[Tensor, Any]:
    import torch

    with torch.inference_mode():
        members = view_means(batch.predictions, batch.counts)
        score, uncertainty = combine_tensors(members, meta)
        rows = torch.cat([members, score[:, None], uncertainty[:, None]], 1)
        if not rows.is_cuda:
            return rows, None
        out = torch.empty(rows.shape, pin_memory=True)
        out.copy_(rows, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return out, event


def _finish(tags: list[T], started: tuple[Tensor, Any]) -> Iterator[tuple[T, Scored]]:
    out, event = started
    if event is not None:
        event.synchronize()
    for tag, row in zip(tags, out.numpy(), strict=True):
        yield tag, Scored(row[:-2].copy(), float(row[-2]), float(row[-1]))


def view_means(predictions: Tensor, counts: list[int]) -> Tensor:
    """Mean over each image's views: [sum(counts), M] -> [len(counts), M]; NaN where a count is 0.

    Views are added in their order, one at a time, whatever else is in the batch: the same bits in any batch.
    """
    import torch

    if all(count == 1 for count in counts):
        return predictions
    number = torch.tensor(counts, device=predictions.device)
    first = number.cumsum(0) - number
    total = torch.zeros(len(counts), predictions.shape[1], device=predictions.device)
    for view in range(max(counts)):
        rows = predictions[(first + view).clamp(max=len(predictions) - 1)]
        total = torch.where((view < number)[:, None], total + rows, total)
    return total / number[:, None]


def combine(members: F32, meta: Meta) -> tuple[F32, F32]:
    """Score and 1-sigma uncertainty of each image.

        score       = sum_m w_m p_m + b, clipped to the score range
        spread^2    = sum_m |w_m| (p_m - score)^2 / sum_m |w_m|
        uncertainty = sqrt(variance_floor(score) + variance_slope * spread^2)

    The spread is the weighted disagreement of the members around the unclipped score. The floor is linear between
    its points and constant beyond them; it and the slope are fitted on out-of-fold residuals (see
    `metaqap_fast.train.meta`).

    Args:
        members: [B, M] member predictions on the MOS scale.
        meta: the bundle's meta-learner.

    Returns:
        score [B] in [0, 1] and uncertainty [B] in the same units, float32.
    """
    predictions = members.astype(np.float64)
    weights = np.asarray(meta.weights)
    # A sum along the last axis depends on that row alone: the same score in any batch.
    score = (predictions * weights).sum(axis=1) + meta.intercept
    disagreement = spread(predictions, score, weights)
    points = np.array(meta.variance_floor)
    floor = np.interp(score, points[:, 0], points[:, 1])
    uncertainty = np.sqrt(floor + meta.variance_slope * disagreement**2)
    return np.clip(score, 0.0, 1.0).astype(np.float32), uncertainty.astype(np.float32)


def combine_tensors(members: Tensor, meta: Meta) -> tuple[Tensor, Tensor]:
    """`combine` for a torch tensor [B, M], on its own device: the Triton kernel on a GPU.

    Returns:
        score [B] and uncertainty [B], float32, on the device of `members`. A row with a NaN has a NaN score.
    """
    import torch

    from metaqap_fast import kernels

    weights = torch.tensor(meta.weights, dtype=torch.float32, device=members.device)
    score, disagreement = kernels.combine(members, weights, meta.intercept, check=False)
    uncertainty = (_floor(score, meta) + meta.variance_slope * disagreement.square()).sqrt()
    return score.clamp(0.0, 1.0), uncertainty


def _floor(score: Tensor, meta: Meta) -> Tensor:
    """`variance_floor` at scores [B]: its first value, and the rise of every stretch up to there."""
    (left, value), *rest = meta.variance_floor
    total = score.new_full(score.shape, value)
    for right, next_value in rest:
        total = total + ((score - left) / (right - left)).clamp(0.0, 1.0) * (next_value - value)
        left, value = right, next_value
    return total


def spread(predictions: F64, score: F64, weights: F64) -> F64:
    """Weighted disagreement [B] of predictions [B, M] around score [B], see `combine`."""
    square = (predictions - score[:, None]) ** 2
    return np.asarray(np.sqrt((square * np.abs(weights)).sum(axis=1) / np.abs(weights).sum()))
