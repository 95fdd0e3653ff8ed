"""How well the reasons are told, on photographs that nothing was fitted on.

The untouched photographs are those of the labelled set with high opinions that were held out. They calibrate; how many
others are flagged is told by calibrating on each half of them and looking at the other one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from metaqap_fast.train.material import Material, good
from metaqap_fast.train.opinion import Opinions
from metaqap_fast.train.reasons import REASONS, limit, severities
from metaqap_fast.train.units import Units

F64 = NDArray[np.float64]
BANDS = {"mild": (0.1, 0.35), "middle": (0.35, 0.65), "severe": (0.65, 1.01)}  # of severity


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """How well reasons are told, on photographs that nothing was fitted on.

    Attributes:
        auc: [R, 3] area under the curve of damaged photographs in each of BANDS against good ones; NaN without any.
        flagged: [R] share of good photographs that is flagged, of those that did not calibrate.
        named: [R, R] of photographs severely damaged for one reason (row), the share that is given each as the first.
    """

    auc: F64
    flagged: F64
    named: F64


def diagnose(seen: Material, said: Opinions, made: Units) -> Diagnosis:
    """Measure units on the validation photographs and on the held-out good ones."""
    faults = slice(1, 1 + len(REASONS))  # what comes after them is no damage
    untouched = made([member[good(seen.held_mos)] for member in seen.held])[:, faults]
    single = np.array([len(rung.steps) == 1 for rung in seen.judged.rungs])
    severity, given = severities(seen.judged.rungs, said)[single], made(seen.judged.pooled)[single, faults]
    auc = np.full((len(REASONS), len(BANDS)), np.nan)
    named = np.full((len(REASONS), len(REASONS)), np.nan)
    for reason in range(len(REASONS)):
        for band, rows in banded(severity[:, reason]).items():
            auc[reason, list(BANDS).index(band)] = area(given[rows, reason], untouched[:, reason])
        severe = severity[:, reason] >= BANDS["severe"][0]
        if severe.any():
            named[reason] = np.bincount(given[severe].argmax(1), minlength=len(REASONS)) / severe.sum()
    halves = untouched[::2], untouched[1::2]
    flagged = [(one > limit(other)).mean(0) for one, other in (halves, halves[::-1])]
    return Diagnosis(auc, np.mean(flagged, axis=0), named)


def banded(severity: F64) -> dict[str, NDArray[np.bool_]]:
    """Which of severities [n] are in each of BANDS; those without any are left out."""
    rows = {band: (severity >= low) & (severity < high) for band, (low, high) in BANDS.items()}
    return {band: chosen for band, chosen in rows.items() if chosen.any()}


def area(positive: F64, negative: F64) -> float:
    """Area under the curve: the chance that a positive is above a negative, ties half."""
    ranks = rankdata(np.concatenate([positive, negative]))[: len(positive)]
    return float((ranks.sum() - len(positive) * (len(positive) + 1) / 2) / (len(positive) * len(negative)))
