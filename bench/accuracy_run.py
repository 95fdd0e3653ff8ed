"""Scores of labelled sets, of distorted and of changed photographs, as raw rows for `accuracy`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from metaqap_fast.bench.baselines import Measure, measured
from metaqap_fast.bench.images import load_rgb
from metaqap_fast.bench.quality import CHANGES, Pixels
from metaqap_fast.errors import UsageError
from metaqap_fast.input.files import File, Listing
from metaqap_fast.scorer import Scorer
from metaqap_fast.train.datasets import DataSet, load, split
from metaqap_fast.train.sets import NamedSet

Row = dict[str, Any]
Say = Callable[[str], None]


def labelled_set(text: str, low: float | None = None, high: float | None = None) -> DataSet:
    """A set from NAME=ROOT; `low` and `high` are the ends of the scale of a csv.

    Raises:
        UsageError: an unknown name, or no such images.
    """
    name, _, root = text.partition("=")
    return load(name, root, *((low, high) if name == "csv" else (None, None)))


def rows(
    sets: Sequence[DataSet],
    photos: Sequence[tuple[str, Pixels]],
    precisions: Sequence[str],
    options: dict[str, Any],
    count: int | None,
    without_twins: bool,
    say: Say,
) -> Iterator[Row]:
    """All rows of a run: `labelled` for each set, `distorted` and `changed` for the photographs."""
    for data in sets:
        yield from labelled(data, precisions, options, count, without_twins, say)
    if photos:
        scorer = Scorer(precision=precisions[0], **options)
        yield from distorted(scorer, photos, say)
        yield from changed(scorer, photos)
        scorer.close()


def strangers(
    sets: Sequence[NamedSet],
    measures: dict[str, Measure],
    precision: str,
    options: dict[str, Any],
    count: int | None,
    measured_count: int | None,
    say: Say,
) -> Iterator[Row]:
    """Scores of the sets of a table, and what other measures say of the same images.

    Args:
        sets: see `train.sets.read_sets`.
        measures: see `baselines`.
        precision: of the scores.
        options: of `Scorer`, without the precision.
        count: images of each set, drawn with a fixed seed; all if None.
        measured_count: how many of them the other measures are computed of; all if None.
        say: progress.
    """
    for one in sets:
        about = {"family": one.family, "part": one.part, "opinions": one.opinions, "licence": one.licence}
        data = replace(one.data, name=one.name)
        contents, groups = (dict(zip(data.keys, names or (), strict=False)) for names in (data.reference, one.group))
        for row in labelled(data, [precision], options, count, False, say):
            name = row["name"]
            yield {**row, **about, "content": contents.get(name), "group": groups.get(name), "case": "stranger"}
        rows = _some(_chosen(data, count), measured_count) if measures else []
        say(f"{one.name}: {', '.join(measures)} of {len(rows)} images")
        for i in rows:
            found = {name: finite(value) for name, value in measured(data.files[i], measures).items()}
            yield {"case": "baseline", "set": one.name, "name": data.keys[i], "mos": float(data.mos[i]), **found}


def _chosen(data: DataSet, count: int | None) -> Any:
    """The test rows of a set with an official split, all of any other, or some of them."""
    rows: Any = split(data).test if data.official is not None else np.arange(len(data.files))
    return _some(rows, count)


def _some(rows: Any, count: int | None) -> Any:
    if count is None or count >= len(rows):
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, count, replace=False))


def labelled(
    data: DataSet,
    precisions: Sequence[str],
    options: dict[str, Any],
    count: int | None,
    without_twins: bool,
    say: Say,
) -> Iterator[Row]:
    """The test images of a set with an official split, all of any other, in every precision that can run here.

    Args:
        data: the set.
        precisions: the first is what the others are compared with.
        options: of `Scorer`, without the precision.
        count: images to use, drawn with a fixed seed; all if None.
        without_twins: look for test images that have a near-duplicate in the training images.
        say: progress.
    """
    rows = _chosen(data, count)
    twin = _twins(data, rows) if without_twins and data.official is not None else set()
    for precision in precisions:
        try:
            scorer = Scorer(precision=precision, **options)
        except UsageError as error:
            if precision == precisions[0]:
                raise
            say(f"{precision}: {error}")
            yield {"case": "unavailable", "set": data.name, "precision": precision, "reason": str(error)}
            continue
        say(f"{data.name}: {len(rows)} images in {scorer.engine.precision} by {scorer.engine.name}")
        entries = (File(str(i).encode(), str(data.files[i]).encode()) for i in rows)
        for found in scorer.stream(entries):
            i = int(found.key)
            yield {
                "case": "set",
                "set": data.name,
                "precision": scorer.engine.precision,
                "name": data.keys[i],
                "mos": float(data.mos[i]),
                "score": finite(found.score),
                "uncertainty": finite(found.uncertainty),
                **({"twin": i in twin} if without_twins else {}),
            }
        scorer.close()


def _twins(data: DataSet, chosen: Sequence[int]) -> set[int]:
    """Those of the chosen rows that have a twin among the training images."""
    from metaqap_fast.train.twins import near_duplicates

    rows = [*split(data).train, *chosen]
    train = len(rows) - len(chosen)
    pairs = near_duplicates([data.files[i] for i in rows])
    return {int(rows[b]) for a, b in pairs if a < train <= b}


def photographs(folder: Path, count: int) -> list[tuple[str, Pixels]]:
    """Name and pixels of photographs spread over a folder.

    Raises:
        UsageError: there is none.
    """
    entries = list(Listing([folder]))
    if not entries:
        raise UsageError(f"no image found in {folder}")
    chosen = [entries[i] for i in np.unique(np.linspace(0, len(entries) - 1, min(count, len(entries))).astype(int))]
    return [(entry.key.decode(errors="backslashreplace"), load_rgb(entry.path)) for entry in chosen]


def distorted(scorer: Scorer, photos: Sequence[tuple[str, Pixels]], say: Say) -> Iterator[Row]:
    """Scores of every photograph under 25 distortions at 5 levels; the levels of one share their random draw."""
    import torch

    from metaqap_fast.train.distortions import DISTORTIONS, LEVELS, distort

    levels = range(1, LEVELS + 1)
    for number, (name, image) in enumerate(photos):
        say(f"[{number + 1}/{len(photos)}] {name}: {len(DISTORTIONS)} distortions at {LEVELS} levels")
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        for kind in DISTORTIONS:
            changed = distort(pixels.repeat(LEVELS, 1, 1, 1), [kind.id] * LEVELS, levels, [number] * LEVELS)
            arrays = (255 * changed).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
            scores = [finite(score) for score in scorer.score_arrays(list(arrays)).score]
            yield {
                "case": "distortion", "photo": name, "kind": kind.id, "distortion": kind.name,
                "ordered": kind.ordered, "scores": scores,
            }  # fmt: skip


def changed(scorer: Scorer, photos: Sequence[tuple[str, Pixels]]) -> Iterator[Row]:
    """Scores before and after changes that nobody sees."""
    for name, image in photos:
        images = [image, *(change(image) for change in CHANGES.values())]
        before, *after = (finite(score) for score in scorer.score_arrays(images).score)
        for change, score in zip(CHANGES, after, strict=True):
            yield {"case": "change", "photo": name, "change": change, "before": before, "after": score}


def finite(value: Any) -> float | None:
    """A number for JSON; None for NaN."""
    return round(float(value), 6) if math.isfinite(value) else None
