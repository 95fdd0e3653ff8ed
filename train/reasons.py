"""Heads that say what is wrong with a picture: a severity from 0 to 1 for each of REASONS.

They stand on the hidden units beside the members and are fitted on the rungs, several kinds of damage at once among
them (see `hidden`); then they are moved and scaled so that a stated share of good photographs is given any, and damage
that people call worst is at 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from metaqap_fast.model.readout import LEVEL
from metaqap_fast.train.damage import BEST, KINDS
from metaqap_fast.train.opinion import Opinions
from metaqap_fast.train.rungs import Rung

F64 = NDArray[np.float64]

REASONS = (
    "out of focus",
    "motion blur",
    "noise",
    "compression",
    "underexposed",
    "overexposed",
    "low contrast",
    "colour cast",
    "upscaled",
    "banding",
    "oversharpened",
)
WORST = 1.3  # opinion of what is at 1
FLAGGED = 0.01  # of good photographs, at most, are given a reason that they do not have
SURE = 0.95  # how sure that is
UNNAMED = 0.999 * LEVEL  # of a good photograph at the limit: at LEVEL itself, rounding would decide whether it is named
WORST_SHARE = 0.85  # of the largest severity of a reason: what counts as its worst rungs

# Of each kind of damage, the reasons for it. "~" before one: it may look like that, and teaches nothing about it.
CAUSES: dict[str, tuple[str, ...]] = {
    "Gaussian blur": ("out of focus", "~motion blur", "~upscaled"),
    "Gaussian blur, between": ("out of focus", "~motion blur", "~upscaled"),
    "lens blur": ("out of focus", "~motion blur", "~upscaled"),
    "lens blur, between": ("out of focus", "~motion blur", "~upscaled"),
    "motion blur": ("motion blur", "~out of focus"),
    "motion blur, wider": ("motion blur", "~out of focus"),
    "white noise": ("noise",),
    "white noise, wider": ("noise",),
    "colour-component noise": ("noise",),
    "impulse noise": ("noise",),
    "multiplicative noise": ("noise",),
    "film grain": ("noise",),
    "shot noise": ("noise",),
    "JPEG": ("compression", "~upscaled", "~banding"),
    "JPEG, between": ("compression",),
    "JPEG 2000": ("compression", "~out of focus", "~upscaled"),
    "WebP": ("compression", "~out of focus", "~banding"),
    "AVIF": ("compression", "~out of focus", "~upscaled"),
    "denoise": ("~compression", "~out of focus", "~noise"),
    "smear": ("~compression", "~out of focus", "~upscaled"),
    "median": ("~compression", "~out of focus", "~upscaled"),
    "darken": ("underexposed", "~low contrast"),
    "under-exposure": ("underexposed", "~low contrast"),
    "brighten": ("overexposed", "~low contrast"),
    "over-exposure": ("overexposed",),
    "haze": ("low contrast", "~overexposed"),
    "contrast loss": ("low contrast",),
    "mean shift": ("~overexposed", "~underexposed", "~low contrast"),
    "contrast": ("~low contrast", "~overexposed", "~underexposed"),
    "colour cast": ("colour cast",),
    "sepia": ("~colour cast",),
    "saturation, HSV": ("~colour cast",),
    "saturation, Lab": ("~colour cast", "~oversharpened"),
    "over-saturation": ("~colour cast",),
    "colour diffusion": ("~colour cast",),
    "negative": ("~colour cast", "~overexposed", "~underexposed"),
    "pixelate": ("upscaled", "~oversharpened"),
    "upscaled, nearest": ("upscaled", "~oversharpened"),
    "upscaled, bilinear": ("upscaled", "~out of focus"),
    "upscaled, bicubic": ("upscaled", "~out of focus"),
    "upscaled, Lanczos": ("upscaled", "~out of focus"),
    "quantisation": ("banding",),
    "banding": ("banding",),
    "colour quantisation": ("banding", "~noise"),
    "sharpen": ("oversharpened", "~noise"),
    "ringing": ("oversharpened", "~noise"),
    "jitter": ("~noise", "~motion blur", "~out of focus"),
    "black border": ("~underexposed",),
}


def severities(rungs: Sequence[Rung], said: Opinions) -> F64:
    """[n, R] what each rung should be given: 0 none to 1 worst, NaN where it is not asked."""
    out = np.zeros((len(rungs), len(REASONS)))
    for row, rung in enumerate(rungs):
        for kind, level in rung.steps:
            severity = float(np.clip((BEST - said[kind][level]) / (BEST - WORST), 0, 1))
            for cause in CAUSES.get(KINDS[kind].name, ()):
                place = REASONS.index(cause.removeprefix("~"))
                if not cause.startswith("~"):
                    out[row, place] = np.fmax(out[row, place], severity)
                elif severity > 0 and out[row, place] == 0:
                    out[row, place] = np.nan
    return out


def calibrated(given: F64, good: F64, severity: F64) -> tuple[F64, F64]:
    """Factor [R] and shift [R] that make given values severities.

    After them no more than FLAGGED of good photographs reach LEVEL, see `limit`, and the worst rungs have in the mean
    the severity that they should have: 1 for what people call worst. A reason that no rung has is never given. All are
    roots of severities, which the readout squares.

    Args:
        given: [m, R] what is said of rungs.
        good: [k, R] what is said of good photographs.
        severity: [m, R] what rungs should be given.
    """
    threshold = limit(good)
    factor, shift = np.zeros(given.shape[1]), np.zeros(given.shape[1])
    for reason, should in enumerate(severity.T):
        if should.max() > 0:
            worst = should >= WORST_SHARE * should.max()
            typical = float(given[worst, reason].mean())
            factor[reason], shift[reason] = line(float(threshold[reason]), typical, float(should[worst].mean()))
    return factor, shift


def line(threshold: float, typical: float, aim: float) -> tuple[float, float]:
    """Factor and shift that make what is said at the threshold UNNAMED, and what is typical of damage the aim.

    Never flat: where the two are the wrong way round, or the aim is no higher than UNNAMED, it rises all the same.
    """
    factor = max(aim - UNNAMED, 0.05) / max(typical - threshold, 1e-6)
    return factor, UNNAMED - factor * threshold


def steeper(good: F64) -> F64:
    """[R] how much more steeply calibrated roots [k, R] of good photographs fall below LEVEL, for half to be 0."""
    middle = np.median(good, axis=0)
    found: F64 = np.where((middle > 0) & (middle < LEVEL), middle / (LEVEL - middle).clip(1e-6), 0.0)
    return found


def limit(good: F64) -> F64:
    """Of values [k, R] of good photographs: what others exceed in no more than FLAGGED of all cases, as sure as SURE.

    If j of k are above it, the share that will be is distributed as beta(j + 1, k - j); j is the largest of which the
    upper bound is FLAGGED at most, or 0. [R].
    """
    count = len(good)
    bounds = beta.ppf(SURE, np.arange(1, count + 1), np.arange(count, 0, -1))
    above = max(int((bounds <= FLAGGED).sum()) - 1, 0)
    highest: F64 = np.sort(good, axis=0)[count - 1 - above]
    return highest
