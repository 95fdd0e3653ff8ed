"""Which photograph is damaged how: ladders of a kind at all its levels, two kinds at once, and changes that do no harm.

A plan is a function of (photographs, seed) alone, and so is every view of it: nothing that is made here is stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.decode import DecodeOptions, create
from metaqap_fast.errors import UsageError
from metaqap_fast.formats import EXTENSIONS
from metaqap_fast.train.damage import KINDS, LADDERS, PROBES, Step, damaged, named
from metaqap_fast.train.features import middle_views
from metaqap_fast.train.member import VIEW_SIZE

View = NDArray[np.uint8]
PARTS = {"train": range(0, 14), "validation": range(14, 17), "untouched": range(17, 20)}  # of 20
AHEAD = 4  # views in work for each thread
# Probes of every photograph that is taught: from a few hundred alone, their answers are not learned.
CHECKS = tuple(map(named, ("black and white", "negative", "half the size", "quarter of the size")))


@dataclass(frozen=True, slots=True)
class Rung:
    """One view: a photograph, by its place, after some steps of damage (none: as it is)."""

    photograph: int
    steps: tuple[Step, ...]
    seed: int


def photographs(folder: Path, part: str) -> list[Path]:
    """Photographs of a part: train, validation or untouched; what a photograph's bytes are decides, not its name.

    Raises:
        UsageError: none, or a part of another name.
    """
    if part not in PARTS:
        raise UsageError(f"unknown part {part!r}: one of {', '.join(PARTS)}")
    found = [path for path in sorted(folder.rglob("*")) if path.suffix.lower().encode() in EXTENSIONS]
    kept = [path for path in found if _card(path) in PARTS[part]]
    if not kept:
        raise UsageError(f"{folder}: no photographs for {part} among {len(found)}")
    return kept


@cache
def digest(path: Path) -> bytes:
    """Of a file's bytes, which are read once."""
    return hashlib.sha256(path.read_bytes()).digest()


def name_of(files: Sequence[Path], what: object = None) -> str:
    """Of a cache: another one for other files, or where something else is made of them."""
    return hashlib.sha256(b"".join(map(digest, files)) + repr(what).encode()).hexdigest()[:12]


def _card(path: Path) -> int:
    return int.from_bytes(digest(path)[:8]) % 20


def plan(count: int, kinds: int, pairs: int, probes: int, seed: int) -> list[Rung]:
    """Rungs of `count` photographs, each photograph's together, itself first.

    Args:
        count: photographs.
        kinds: of five levels, that each is damaged by; dealt like cards, so that each comes equally often.
        pairs: copies with two kinds at once.
        probes: of changes that do no harm, or a known one, that are dealt likewise, beside CHECKS.
        seed: of everything.
    """
    rng = np.random.default_rng((seed, 24))
    ladders, dealt = _deal(rng, LADDERS), _deal(rng, PROBES)
    rungs = []
    for photograph in range(count):
        draw = int(rng.integers(2**31))
        rungs.append(Rung(photograph, (), draw))
        for kind in islice(ladders, kinds):
            rungs += [Rung(photograph, (Step(kind, level),), draw) for level in range(len(KINDS[kind].levels))]
        for _ in range(pairs):
            rungs.append(Rung(photograph, _both(rng), draw))
        rungs += _probes(photograph, {*CHECKS, *islice(dealt, probes)}, draw)
    return rungs


def sparse(count: int, kinds: int, rng: np.random.Generator) -> list[Rung]:
    """Rungs for many photographs: each as it is, by some kinds at two neighbouring levels, by two kinds at once, and by
    each of CHECKS."""
    ladders, rungs = _deal(rng, LADDERS), []
    for photograph in range(count):
        draw = int(rng.integers(2**31))
        rungs.append(Rung(photograph, (), draw))
        for kind in islice(ladders, kinds):
            level = int(rng.integers(len(KINDS[kind].levels) - 1))
            rungs += [Rung(photograph, (Step(kind, level + more),), draw) for more in (0, 1)]
        rungs.append(Rung(photograph, _both(rng), draw))
        rungs += _probes(photograph, CHECKS, draw)
    return rungs


def checked(count: int, seed: int) -> list[Rung]:
    """Rungs for very many photographs: each as it is, and by each of CHECKS."""
    rungs = []
    for photograph in range(count):
        draw = seed * 1_000_003 + photograph
        rungs += [Rung(photograph, (), draw), *_probes(photograph, CHECKS, draw)]
    return rungs


def everything(count: int, seed: int) -> list[Rung]:
    """All kinds at all levels of `count` photographs, each photograph's together, itself first."""
    rungs = []
    for photograph in range(count):
        draw = seed * 1_000_003 + photograph
        rungs.append(Rung(photograph, (), draw))
        for kind, one in enumerate(KINDS):
            rungs += [Rung(photograph, (Step(kind, level),), draw) for level in range(len(one.levels))]
    return rungs


def views(files: Sequence[Path], rungs: Sequence[Rung], threads: int = 2, size: int = VIEW_SIZE) -> Iterator[View]:
    """The views [S, S, 3] uint8 of rungs, in order, made on some threads; each photograph is decoded once.

    Damage is done to 512 pixels, whatever the size S of the views: a kind's levels are made for that. The result is
    then resized like any picture of 512 pixels.
    """
    made = _at_full_size(files, rungs, threads)
    if size == VIEW_SIZE:
        return made
    return (image.views[0] for image in create(DecodeOptions(size)).stream_arrays((b"", view) for view in made))


def _at_full_size(files: Sequence[Path], rungs: Sequence[Rung], threads: int) -> Iterator[View]:
    wanted = list(dict.fromkeys(rung.photograph for rung in rungs))
    sources = dict(zip(wanted, middle_views([files[place] for place in wanted]), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        waiting = iter(rungs)
        made = [pool.submit(_view, sources, rung) for rung in islice(waiting, AHEAD * threads)]
        while made:
            yield made.pop(0).result()
            made += [pool.submit(_view, sources, rung) for rung in islice(waiting, 1)]


def _view(sources: dict[int, View], rung: Rung) -> View:
    return damaged(sources[rung.photograph], rung.steps, rung.seed)


def _probes(photograph: int, kinds: Iterable[int], draw: int) -> list[Rung]:
    return [Rung(photograph, (Step(kind, 0),), draw) for kind in sorted(kinds)]


def _both(rng: np.random.Generator) -> tuple[Step, ...]:
    """Two kinds, each at some level."""
    kinds = rng.choice(LADDERS, 2, replace=False)
    return tuple(Step(int(kind), int(rng.integers(len(KINDS[kind].levels)))) for kind in kinds)


def _deal(rng: np.random.Generator, cards: Sequence[int]) -> Iterator[int]:
    """Cards without end, each equally often."""
    while True:
        yield from (int(card) for card in rng.permutation(list(cards)))
