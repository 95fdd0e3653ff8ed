"""Multi-level Otsu by dynamic programming: exact, and not exponential in the number of classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def otsu_starts(histogram: NDArray[np.integer], classes: int) -> list[int]:
    """First bin of each class, of the split of the bins into at most `classes` runs with the least variance inside.

    The least variance within the classes is Otsu's greatest variance between them. Empty bins are left out
    first, so that every class holds a pixel; an image with fewer values than classes keeps them all.

    Args:
        histogram: [bins] counts.
    """
    used = np.flatnonzero(histogram)
    count = histogram[used].astype(np.float64)
    size = len(used)
    classes = min(classes, size)
    weight, first, second = (np.concatenate([[0.0], np.cumsum(count * used**power)]) for power in (0, 1, 2))
    i, j = np.arange(size)[:, None], np.arange(1, size + 1)[None]
    mass = np.maximum(weight[j] - weight[i], 1e-12)
    cost = (second[j] - second[i]) - (first[j] - first[i]) ** 2 / mass  # [start, end]: squared error of one class
    cost[i >= j] = np.inf
    best = cost[0]  # of the first `end` values in one class
    choices = []
    for _ in range(classes - 1):
        total = np.concatenate([[np.inf], best[:-1]])[:, None] + cost  # the last class starts at `start`
        choices.append(total.argmin(0))
        best = total.min(0)
    starts, end = [], size - 1
    for choice in reversed(choices):
        starts.append(int(choice[end]))
        end = starts[-1] - 1
    return [int(used[s]) for s in [0, *reversed(starts)]]


def otsu_table(histogram: NDArray[np.integer], classes: int) -> NDArray[np.float64]:
    """[bins] the mean of each bin's class."""
    starts = otsu_starts(histogram, classes)
    bins = np.arange(len(histogram))
    label = np.maximum(np.searchsorted(starts, bins, side="right") - 1, 0)
    mass = np.bincount(label, histogram, minlength=len(starts))
    means: NDArray[np.float64] = np.bincount(label, histogram * bins, minlength=len(starts)) / mass
    return means[label]
