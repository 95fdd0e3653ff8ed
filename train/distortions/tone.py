"""Tone curves: kinds 16 (brighten), 17 (darken), 18 (mean shift), 22 (quantisation) and 25 (contrast)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from metaqap_fast.train.distortions.base import Draws
from metaqap_fast.train.distortions.otsu import otsu_table
from metaqap_fast.train.distortions.spaces import lab_to_rgb, rgb_to_lab


def spline_curve(x: Tensor, points: Sequence[tuple[float, float]]) -> Tensor:
    """The not-a-knot cubic through `points` (through three of them: a parabola) at x, clipped to 0..1."""
    knots, values = zip(*points, strict=True)
    pieces = torch.from_numpy(CubicSpline(knots, values, bc_type="not-a-knot").c).to(x)  # [4, pieces]
    starts = torch.tensor(knots[:-1], device=x.device, dtype=x.dtype)
    y = torch.zeros_like(x)
    for i in range(pieces.shape[1]):
        t = x - starts[i]
        c3, c2, c1, c0 = pieces[:, i].tolist()
        piece = ((c3 * t + c2) * t + c1) * t + c0
        y = piece if i == 0 else torch.where(x >= starts[i], piece, y)
    return y.clamp(0, 1)


def brighten(x: Tensor, amount: float, _: Draws) -> Tensor:
    """16: f through (0, 0), (.5, .5 + a/2), (1, 1); two parts f(RGB), one part the RGB of Lab with f(L)."""
    curve = [(0.0, 0.0), (0.5, 0.5 + amount / 2), (1.0, 1.0)]
    lab = rgb_to_lab(x)
    lifted = lab_to_rgb(torch.cat([100 * spline_curve(lab[:, :1] / 100, curve), lab[:, 1:]], 1))
    return (2 * spline_curve(x, curve) + lifted) / 3


def darken(x: Tensor, amount: float, _: Draws) -> Tensor:
    """17: the curve through (0, 0), (.5, .5 - a/2), (1, 1) on RGB."""
    return spline_curve(x, [(0.0, 0.0), (0.5, 0.5 - amount / 2), (1.0, 1.0)])


def mean_shift(x: Tensor, shift: float, _: Draws) -> Tensor:
    """18: a constant added, clipped. The stretch that follows undoes it but for what was clipped."""
    return (x + shift).clamp(0, 1)


def quantisation(x: Tensor, classes: float, _: Draws) -> Tensor:
    """22: every value replaced by the mean of its class; multi-level Otsu classes over all three channels."""
    return torch.stack([_quantised(image, int(classes)) for image in x])


def _quantised(image: Tensor, classes: int) -> Tensor:
    bins = (image.clamp(0, 1) * 255).round().long()
    histogram = np.bincount(bins.cpu().numpy().ravel(), minlength=256)
    table = torch.from_numpy(otsu_table(histogram, classes).astype(np.float32)).to(image.device)
    return table[bins] / 255


def contrast(x: Tensor, amount: float, _: Draws) -> Tensor:
    """25: the curve through (0, 0), (.3, .25 - a/4), (.5, .5), (.7, .75 + a/4), (1, 1)."""
    quarter = amount / 4
    return spline_curve(x, [(0.0, 0.0), (0.3, 0.25 - quarter), (0.5, 0.5), (0.7, 0.75 + quarter), (1.0, 1.0)])
