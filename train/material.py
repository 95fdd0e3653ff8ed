"""What hidden units are fitted and judged on: what a bundle's members see in photographs, damaged in every way.

Features are computed once and kept. Nothing is fitted on what is judged by: one fold of the labelled set, and the
validation parts of the photographs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from metaqap_fast.errors import UsageError
from metaqap_fast.model.bundle import FINER, MOST_LINES, Bundle
from metaqap_fast.train import hidden, large, rated, rungs
from metaqap_fast.train.features import middle_views
from metaqap_fast.train.large import Large
from metaqap_fast.train.member import VIEW_SIZE
from metaqap_fast.train.members import Examples
from metaqap_fast.train.opinion import read_cells
from metaqap_fast.train.rated import Rated
from metaqap_fast.train.rehead import digest_of_body
from metaqap_fast.train.rungs import Rung
from metaqap_fast.train.seen import Eyes, Pooled, remember
from metaqap_fast.train.sets import read_sets

F64 = NDArray[np.float64]
HELD = 0  # the fold of the labelled set that is held out
SEED = 2024
GOOD = 0.7  # quantile of opinions from which a photograph is a good one
BETTER = 0.4  # and one to be damaged for training
SEED_OF_BETTER = 77
Wanted = Literal["everything", "judged", "large"]
LARGE_PARTS = ("train", "validation")
TAUGHT = ("train", "better", "checked")  # parts that are fitted on; of the last there may be none


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is seen, and how it is weighed.

    Attributes:
        images: of the labelled set that heads are fitted on, and as many as a fourth of it that are held out.
        photographs: that are damaged for training; 0 for all there are.
        better: of the better labelled images, how many are damaged for training too: more photographs and cameras.
        checked: of the same images, how many more are only made black and white, negative and small.
        judged: photographs of the validation part, each damaged in every way.
        kinds: of five levels, that each photograph is damaged by.
        precision: of the features.
        components: of each member's taps, that the units see.
        layers: that are fitted for the score, and as many for the reasons.
        reason_units: of the one that is taught what these say in the mean.
        score_units: of each layer that is fitted for the score.
        steps: of every fit for the reasons; the last of them takes four times as many.
        score_steps: of every fit for the score.
        mos: weight of a labelled photograph's opinion, beside a rung's of 1.
        still: weight of its score as it is.
        cells: weight of the mean over photographs at each level of each kind.
        dropout: share of the components that is left out at random, for the reasons.
        score_dropout: the same for the score.
        large: times that a large photograph with its copies counts like one of `photographs`.
        fine_lines: of a picture, that its fine view is cut from; 0 for those of the bundle, or twice its view size
            where it has no units for fine views.
    """

    images: int = 10_000
    photographs: int = 0
    better: int = 900
    checked: int = 2000
    judged: int = 16
    kinds: int = 3
    precision: str = "fp32"
    components: int = 1024
    layers: int = 4
    reason_units: int = 32
    score_units: int = 48
    steps: int = 400
    score_steps: int = 1600
    mos: float = 30.0
    still: float = 10.0
    cells: float = 1.0
    dropout: float = 0.2
    score_dropout: float = 0.5
    large: int = 2
    fine_lines: int = 0

    @property
    def weights(self) -> hidden.Weights:
        """Of the fits for the score."""
        return hidden.Weights(
            mos=self.mos, still=self.still, cells=self.cells, dropout=self.score_dropout, steps=self.score_steps
        )

    @property
    def weights_of_reasons(self) -> hidden.Weights:
        """Of the fits for the reasons."""
        return hidden.Weights(score=0.0, reasons=1.0, dropout=self.dropout, steps=self.steps)


@dataclass(frozen=True, slots=True)
class Pictures:
    """What units are taught beside a labelled set.

    Attributes:
        photographs: folder of undamaged ones.
        opinions: KADID's mean opinions, see `opinion.read_cells`.
        large: folder of undamaged photographs of 1,400 lines and more.
        strange: folder of pictures that are no photographs, to be told from them.
        rated: table of labelled sets, see `sets.read_sets`.
    """

    photographs: Path
    opinions: Path
    large: Path | None = None
    strange: Path | None = None
    rated: Path | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """Rungs, and what each member sees in them [n, D]."""

    rungs: list[Rung]
    pooled: list[Pooled]


@dataclass(frozen=True, slots=True)
class Material:
    """What units are fitted and judged on.

    `large` are copies of large photographs, if there are some, and `judged_large` those that nothing is fitted on;
    `rated` are large pictures of other sets with opinions.
    `labelled` and `held` are each member's pooled taps of photographs, `mos` and `held_mos` their opinions.
    """

    labelled: list[Pooled]
    mos: F64
    held: list[Pooled]
    held_mos: F64
    taught: Seen
    judged: Seen
    cells: F64
    large: Large | None = None
    judged_large: Large | None = None
    rated: Rated | None = None


@dataclass(frozen=True, slots=True)
class Plans:
    """What is seen.

    Attributes:
        used: rows of the labelled set: `labelled` to fit on, `held` out.
        files: photographs that are damaged: `train`, `validation`, the `better` of the labelled ones, and more of these
            that are `checked`.
        rungs: of the same.
    """

    used: dict[str, NDArray[np.int64]]
    files: dict[str, list[Path]]
    rungs: dict[str, list[Rung]]


def plans(data: Examples, photographs: Path, settings: Settings) -> Plans:
    """Which rows of a labelled set are used for what, and how which photographs are damaged.

    Args:
        data: the labelled set's training images.
        photographs: folder of undamaged ones.
        settings: see `Settings`.
    """
    used = {
        "labelled": np.flatnonzero(data.folds != HELD)[: settings.images],
        "held": np.flatnonzero(data.folds == HELD)[: max(1, settings.images // 4)],
    }
    mos = data.mos[used["labelled"]]
    better = used["labelled"][mos >= np.quantile(mos, BETTER)]
    rng = np.random.default_rng(SEED_OF_BETTER)
    files = {part: rungs.photographs(photographs, part) for part in ("train", "validation")}
    files["train"] = files["train"][: settings.photographs or None]
    mixed = [data.files[i] for i in rng.permutation(better)]
    files["better"] = mixed[: settings.better]
    files["checked"] = mixed[settings.better :][: settings.checked]
    steps = {
        "train": rungs.plan(len(files["train"]), settings.kinds, 2, 2, SEED),
        "better": rungs.sparse(len(files["better"]), 3, rng),
        "checked": rungs.checked(len(files["checked"]), SEED),
        "validation": rungs.everything(min(settings.judged, len(files["validation"])), SEED),
    }
    return Plans(used, files, {part: planned for part, planned in steps.items() if planned})


def see(
    bundle: Bundle,
    data: Examples,
    pictures: Pictures,
    work: Path,
    settings: Settings | None = None,
    wanted: Wanted = "everything",
) -> Material:
    """What a bundle's members see in everything that units are fitted on; kept under `work`.

    Args:
        bundle: with members that the native kernel runs.
        data: the labelled set's training images.
        pictures: folders and tables.
        work: folder of the caches; another bundle has its own in it.
        settings: see `Settings`.
        wanted: `judged`: what the uncertainty is fitted on, where units stay as they are; `large`: copies of large
            photographs, and rated pictures, where all but fine views stays as it is.

    Raises:
        UsageError: fine views cannot have so many lines, or there are too few pictures of some kind.
    """
    settings = settings or Settings()
    lines = lines_of(bundle, settings)
    said = read_cells(pictures.opinions)  # before hours are spent
    sets = rated.for_choosing(read_sets(pictures.rated)) if pictures.rated is not None else []
    copies = pictures.large if wanted != "judged" else None
    copied = {part: large.files_of(copies, part) for part in LARGE_PARTS} if copies is not None else {}
    planned = plans(data, pictures.photographs, settings)
    used, files = planned.used, planned.files
    folder = cache_of(bundle, work, settings)
    eyes = Eyes(bundle, settings.precision)

    # These first: there may be none that are large enough.
    opinions = rated.see(eyes, sets, folder / f"rated-{lines}", bundle.view_size, lines) if sets else None
    large_ones = {
        part: large.see(eyes, found, folder / f"{large.name()}-{lines}-{part}", bundle.view_size, lines)
        for part, found in copied.items()
    }

    def views_of(files: Sequence[Path], steps: Sequence[Rung]) -> Callable[[int, int], Any]:
        return lambda start, stop: rungs.views(files, steps[start:stop], size=bundle.view_size)

    seen = {}
    left_out = {"everything": (), "judged": (*TAUGHT, "labelled"), "large": (*planned.rungs, *used)}[wanted]
    for part, steps in planned.rungs.items():
        if part in left_out:
            continue
        cache = folder / f"{part}-{rungs.name_of(files[part], steps)}"
        seen[part] = Seen(steps, remember(eyes, len(steps), views_of(files[part], steps), cache))

    def images(files: Sequence[Path]) -> Callable[[int, int], Any]:
        return lambda start, stop: middle_views(files[start:stop], bundle.view_size)

    pooled = {
        part: remember(eyes, len(rows), images([data.files[i] for i in rows]), folder / part)
        for part, rows in used.items()
        if part not in left_out
    }
    taught = [seen[part] for part in TAUGHT if part in seen]
    return Material(
        pooled.get("labelled", []),
        data.mos[used["labelled"]],
        pooled.get("held", []),
        data.mos[used["held"]],
        together(taught) if taught else Seen([], []),
        seen.get("validation", Seen([], [])),
        said,
        large=large_ones.get("train"),
        judged_large=large_ones.get("validation"),
        rated=opinions,
    )


def lines_of(bundle: Bundle, settings: Settings) -> int:
    """Of a picture, that its fine view is cut from.

    Raises:
        UsageError: there cannot be so many, or so few.
    """
    lines = settings.fine_lines or bundle.fine_lines or FINER * bundle.view_size
    if not bundle.view_size <= lines <= MOST_LINES:
        raise UsageError(
            f"--set fine_lines={lines}: the model {bundle.name}, whose views have {bundle.view_size} pixels, may have "
            f"fine views of {bundle.view_size} to {MOST_LINES} lines"
        )
    return lines


def together(parts: Sequence[Seen]) -> Seen:
    """All of them, as if their photographs were in one list."""
    steps: list[Rung] = []
    for part in parts:
        count = steps[-1].photograph + 1 if steps else 0
        steps += [replace(rung, photograph=rung.photograph + count) for rung in part.rungs]
    pooled = [np.concatenate(member) for member in zip(*(part.pooled for part in parts), strict=True)]
    return Seen(steps, pooled)


def cache_of(bundle: Bundle, work: Path, settings: Settings) -> Path:
    """Where what a bundle's members see is kept: under what the networks are, whatever heads stand on them."""
    networks = "".join(digest_of_body(onnx.load(member.file)) for member in bundle.members)
    if bundle.view_size != VIEW_SIZE:  # what networks are does not say how large their input is
        networks += f" {bundle.view_size}"
    return work / f"{hashlib.sha256(networks.encode()).hexdigest()[:12]}-{settings.precision}"


def good(mos: F64) -> NDArray[np.bool_]:
    """Which photographs are good ones, by their opinions."""
    return mos >= np.quantile(mos, GOOD)
