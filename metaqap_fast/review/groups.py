"""Images that look alike, and the best of each group of them.

Two images look alike if few of the 64 bits of their perceptual hashes differ. The best image of all comes first and
takes those that look like it, the best of the rest does the same, and so on. So whatever is called a duplicate looks
like an image that is kept and scores higher; there are no chains of images that look alike only step by step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from metaqap_fast.errors import UsageError
from metaqap_fast.options import DISTANCE
from metaqap_fast.scores.table import ScoreTable

Ints = NDArray[np.int64]
BANDS, WIDTH = 4, 16  # a hash in parts: of two at most d bits apart, one part has at most d // BANDS of them
FURTHEST = 3 * BANDS - 1
BLOCK = 1 << 21  # pairs compared at once
_ONES = np.array([value.bit_count() for value in range(1 << WIDTH)], np.uint8)
# Of the errors of two images that look alike, in units of their uncertainties: docs/review.md says how it was measured.
CORRELATION = 0.95


@dataclass(frozen=True, slots=True)
class Alike:
    """When images are duplicates.

    Attributes:
        distance: bits of the hash that differ, at most.
        within: seconds between one image and the next that was taken; None: whenever they were.
        sure: least probability that the best one is better, 0 to 1.
    """

    distance: int = DISTANCE
    within: float | None = None
    sure: float = 0.0


@dataclass(frozen=True, slots=True)
class Duplicates:
    """What may go. Each is [K], in the order of the file.

    Attributes:
        rows: their numbers. best: the number of the image that is kept for each.
        probability: that this is the better one, 0.5 to 1.
    """

    rows: Ints
    best: Ints
    probability: NDArray[np.float64]


def better(score: Any, sigma: Any, other: Any, other_sigma: Any, correlation: float = CORRELATION) -> Any:
    """Probability that an image is better than another one that looks like it, 0 to 1.

    Errors are normal with the scores' own uncertainties, and correlated: what the model misjudges in one image it
    misjudges in its likeness too.
    """
    score, sigma, other, other_sigma = (np.asarray(x, np.float64) for x in (score, sigma, other, other_sigma))
    variance = sigma**2 + other_sigma**2 - 2 * correlation * sigma * other_sigma
    return ndtr((score - other) / np.sqrt(np.maximum(variance, 1e-12)))


def duplicates(tables: Iterable[ScoreTable], alike: Alike) -> Duplicates:
    """The images of a file that look like a better one. Memory: some 400 bytes for each row.

    Raises:
        UsageError: the file has no hashes, or no dates where they are asked for.
    """
    parts = [_columns(table, alike.within is not None) for table in tables]
    if not parts:
        parts = [(np.empty(0, np.uint64), np.empty(0), np.empty(0), np.empty(0))]
    hashes, scores, sigmas, seconds = (np.concatenate(column) for column in zip(*parts, strict=True))
    usable = np.flatnonzero(np.isfinite(scores) & (hashes != 0))
    if np.isfinite(scores).any() and not len(usable):
        raise UsageError(
            "the score file has no perceptual hashes: an older version or a GPU's decoder made it. Score again on a CPU"
        )
    shots = _sittings(seconds[usable], alike.within)
    best = usable[grouped(hashes[usable], scores[usable], alike.distance, shots)]
    worse = usable != best
    rows, best = usable[worse], best[worse]
    chance = better(scores[best], sigmas[best], scores[rows], sigmas[rows])
    sure = chance >= alike.sure
    return Duplicates(rows[sure], best[sure], chance[sure])


def grouped(hashes: NDArray[np.uint64], scores: NDArray[Any], distance: int, sittings: Ints | None = None) -> Ints:
    """For each image the number of the best of its group, its own if it is that.

    Args:
        hashes: [N].
        scores: [N] finite; of equal ones the first is the best.
        distance: bits that differ within a group, at most, 0 to `FURTHEST`.
        sittings: [N] only images with one number are in a group.
    """
    if not 0 <= distance <= FURTHEST:
        raise UsageError(f"the distance is from 0 to {FURTHEST} bits, not {distance}")
    order = np.argsort(-scores, kind="stable")
    both = np.stack([hashes[order], (np.zeros(len(hashes)) if sittings is None else sittings[order]).astype(np.uint64)])
    # Images with the same hash are one, whose best comes first.
    codes, first, which = np.unique(both, axis=1, return_index=True, return_inverse=True)
    which = which.reshape(-1)
    by_rank = np.argsort(first)
    rank = np.argsort(by_rank)
    near = _neighbours(codes[0][by_rank], codes[1][by_rank], distance)
    leader = np.full(len(first), -1, np.int64)
    for one in range(len(first)):
        if leader[one] < 0:
            leader[one] = one
            if (others := near.get(one)) is not None:
                leader[others[leader[others] < 0]] = one
    best = np.empty(len(hashes), np.int64)
    best[order] = order[first[by_rank][leader[rank[which]]]]
    return best


def _neighbours(codes: NDArray[np.uint64], sittings: NDArray[np.uint64], distance: int) -> dict[int, Ints]:
    """Code -> those with a higher number that are near it."""
    found = [pair[:, sittings[pair[0]] == sittings[pair[1]]] for pair in near_pairs(codes, distance)]
    if not found:
        return {}
    pairs = np.unique(np.concatenate(found, axis=1), axis=1)
    starts = np.flatnonzero(np.diff(pairs[0], prepend=-1))
    return dict(zip(pairs[0][starts].tolist(), np.split(pairs[1], starts[1:]), strict=True)) if len(starts) else {}


def near_pairs(codes: NDArray[np.uint64], distance: int) -> Iterator[Ints]:
    """Pairs [2, K] of codes that differ in at most so many bits, the lower number first; some of them several times.

    Codes that are near have a part in which they differ in at most `distance // BANDS` bits. So for each part and each
    few bits, those are compared that differ in just these.
    """
    few = [bits for count in range(distance // BANDS + 1) for bits in combinations(range(WIDTH), count)]
    masks = [sum(1 << bit for bit in bits) for bits in few]
    for band in range(BANDS):
        part = (codes >> np.uint64(band * WIDTH)).astype(np.int64) & (1 << WIDTH) - 1
        order = np.argsort(part, kind="stable")
        values = part[order]
        starts = np.searchsorted(values, np.arange((1 << WIDTH) + 1))
        for mask in masks:
            other = values ^ mask
            low, high = starts[other], starts[other + 1]
            if not mask:  # each pair of equal parts once
                low = np.arange(1, len(codes) + 1)
            counts = np.where(other >= values, high - low, 0)
            for one, two in _expanded(low, counts):
                left, right = order[one], order[two]
                close = _distance(codes[left] ^ codes[right]) <= distance
                left, right = left[close], right[close]
                yield np.stack([np.minimum(left, right), np.maximum(left, right)])


def _expanded(low: Ints, counts: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Item i with each of `counts[i]` items from `low[i]` on, a block at a time."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + BLOCK, side="right")))
        some = counts[start:stop]
        if total := int(some.sum()):
            one = np.repeat(np.arange(start, stop), some)
            yield one, np.arange(total) - np.repeat(np.cumsum(some) - some, some) + np.repeat(low[start:stop], some)
        start = stop


def _distance(bits: NDArray[np.uint64]) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = _ONES[bits.view(np.uint16).reshape(-1, BANDS)].sum(axis=1, dtype=np.uint8)
    return found


def _columns(table: ScoreTable, timed: bool) -> tuple[NDArray[Any], ...]:
    """Hashes, scores, uncertainties, and seconds since 1970 (NaN where they are not known)."""
    seconds = np.full(len(table), np.nan)
    if timed:
        if not table.attributes.get("exif"):
            raise UsageError("the score file has no dates: score with --exif")
        dates = np.array([date or "NaT" for date in table.columns["date"]], "datetime64[ms]")
        seconds = np.where(np.isnat(dates), np.nan, dates.astype(np.int64) / 1000)
    scores = np.where(table.ok, table.score, np.nan)
    return np.asarray(table.columns["hash"]), scores, np.asarray(table.uncertainty), seconds


def _sittings(seconds: NDArray[np.float64], within: float | None) -> Ints | None:
    """Numbers of runs of images, each taken soon after the one before; images without a time are one run."""
    if within is None:
        return None
    order = np.argsort(seconds, kind="stable")  # NaN at the end
    runs = np.empty(len(seconds), np.int64)
    gaps = np.diff(seconds[order], prepend=seconds[order][:1])
    new = (gaps > within) | (np.isnan(gaps) & np.isfinite(np.append(0.0, seconds[order][:-1])))
    runs[order] = np.cumsum(new)
    return runs
