"""How much damage adds to the uncertainty: what a score's error lacks where the model sees that something is wrong.

The uncertainty is calibrated on photographs of the labelled set, of which few are ruined, and none is large. Damaged
photographs score further from what people said of them, so a variance is added that grows with the worst severity of an
image. So do large pictures that a fine view has lowered, and another is added that grows with how much it has.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
KNOTS = 8  # of the line
INSIDE, SIGMAS = 0.95, 1.96  # the share of errors that is to be within so many standard deviations
# Damage that people see without the original, which they saw beside each copy: of light and colour they would say less.
SEEN_ALONE = ("out of focus", "motion blur", "noise", "compression", "upscaled", "banding")


def added_variance(place: F64, error: F64, variance: F64, weight: F64) -> list[tuple[float, float]]:
    """Points (place, variance) that never fall, from (0, 0): what is added to `variance`.

    At each place the variance is such that INSIDE of the errors there are within SIGMAS standard deviations: split
    conformal prediction by groups, of which the sizes are those of equal weight.

    Args:
        place: [n] of each image: its worst severity, or how much its fine view lowers.
        error: [n] score less opinion.
        variance: [n] of each image as it is.
        weight: [n] of each image, above 0.
    """
    order = np.argsort(place, kind="stable")
    order = order[place[order] > 0]
    points, least = [(0.0, 0.0)], 0.0
    if not len(order):
        return points
    share = np.cumsum(weight[order]) / weight[order].sum()
    for group in range(KNOTS):
        rows = order[(share > group / KNOTS) & (share <= (group + 1) / KNOTS + 1e-12)]
        if not len(rows):
            continue
        middle = float(np.average(place[rows], weights=weight[rows]))
        squared = (error[rows] / SIGMAS) ** 2 - variance[rows]
        by_lack = np.argsort(squared, kind="stable")
        reached = np.searchsorted(np.cumsum(weight[rows][by_lack]), INSIDE * weight[rows].sum())
        least = max(least, float(squared[by_lack[min(int(reached), len(rows) - 1)]]))
        if middle > points[-1][0]:
            points.append((middle, least))
    return points
