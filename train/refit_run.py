"""One command from a bundle to one with hidden units and reasons: see, fit, judge, write."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.errors import UsageError
from metaqap_fast.input.files import Listing
from metaqap_fast.model import bundle as bundles
from metaqap_fast.model.bundle import Bundle
from metaqap_fast.model.readout import LEVEL
from metaqap_fast.streams import counted
from metaqap_fast.train import rungs, strange
from metaqap_fast.train.changed import changed
from metaqap_fast.train.detail import Detail
from metaqap_fast.train.diagnose import BANDS, Diagnosis, area, diagnose
from metaqap_fast.train.features import middle_views
from metaqap_fast.train.material import Material, Pictures, Settings, cache_of, see
from metaqap_fast.train.reasons import REASONS
from metaqap_fast.train.refit import Only, Refit
from metaqap_fast.train.revise import SCORED, Fitted, revise, write_json
from metaqap_fast.train.run import folder_for, prepare
from metaqap_fast.train.seen import Eyes, Pooled, remember
from metaqap_fast.train.units import Units, shipped_fine, shipped_units

log = logging.getLogger(__name__)

FITTED: dict[Only, Fitted] = {"": "heads", "scores": "scores", "reasons": "reasons", "unfamiliar": "reasons"}
# Folders that say nothing of what is fitted.
UNUSED: dict[str, tuple[str, ...]] = {"scores": ("strange",), "fine": ("strange",), "uncertainty": ("strange", "large")}
EYES = ("fp32", "bf16")  # what features can be computed in
MAY_LOSE = 0.002  # of SROCC on the held-out fold


def refit(
    name: str,
    root: Path,
    output: Path,
    work: Path,
    model: str,
    pictures: Pictures,
    low: float | None = None,
    high: float | None = None,
    bundle_name: str | None = None,
    only: Only | Literal["fine", "uncertainty"] = "",
    changes: dict[str, Any] | None = None,
) -> str:
    """Fit hidden units beside a bundle's members and write a bundle with them; returns the figures as text.

    Args:
        name: of the labelled set, see `datasets.load`, as are root, low and high.
        root: where it is.
        output: the new bundle's folder.
        work: folder of caches; a second call goes on from them.
        model: the bundle: a name or a folder.
        pictures: what units are taught beside the labelled set.
        low: see `datasets.load`.
        high: see `datasets.load`.
        bundle_name: of the new bundle.
        only: what is fitted, see `Refit.fit`; everything if empty. Scores alone leave reasons as they are, and the rest
            leaves scores.
        changes: entries of `Settings`.
    """
    settings = settings_of(changes or {})
    bundle = bundles.load(model)
    if only == "unfamiliar" and not (bundle.reasons and pictures.strange):
        raise UsageError(
            "--unfamiliar-only needs pictures that are no photographs, and a model that has reasons"
            + (": give --strange FOLDER" if bundle.reasons else f", which {bundle.name} has not: leave the option out")
        )
    if only in ("scores", "fine", "uncertainty") and not bundle.reasons:
        raise UsageError(f"--{only}-only needs a model that has reasons, which {bundle.name} has not")
    if only == "fine" and pictures.large is None and not bundle.has_fine:
        raise UsageError("--fine-only learns from large photographs: give --large FOLDER")
    fits_fine = pictures.large is not None and only in ("", "scores", "fine")
    if settings.fine_lines not in (0, bundle.fine_lines) and not fits_fine:
        raise UsageError(
            "--set fine_lines takes units for fine views that learn from large photographs: give --large FOLDER, and "
            "no other option than --fine-only or --scores-only that leaves something as it is"
        )
    for option in UNUSED.get(only, ()):
        if getattr(pictures, option) is not None:
            log.warning("--%s is not looked at: --%s-only learns nothing from it", option, only)
    folder = None if only in UNUSED else pictures.strange
    if folder is not None:
        strange_files(folder)  # before hours are spent
    _, _, data = prepare(name, root, work, None, low, high)
    folder_for(output)
    new_name = bundle_name or f"{bundle.name}-heads"
    if only == "fine" or only == "uncertainty":  # mypy narrows by this
        seen = see(bundle, data, pictures, work, settings, "large" if only == "fine" else "judged")
        return write_json(output / "heads.json", as_it_scores(bundle, seen, output, new_name, only))
    seen = see(bundle, data, pictures, work, settings)
    fits = Refit(bundle, seen, settings)
    odd, judged = strange_pictures(bundle, folder, work, settings) if folder is not None else (None, None)
    made = fits.fit(only, odd)
    if judged is not None and not only:
        made = better_told(made, shipped_units(bundle), seen, judged)
    detail, fine = Detail(bundle, seen), shipped_fine(bundle)
    fitted = FITTED[only]
    if fitted in SCORED:
        fine = detail.better(made, detail.fit(made), fine)
    figures = scores_of(fits, made) | detail.figures(made, fine) if fitted in SCORED else {}
    figures |= {"settings": asdict(settings), "reasons": _table(diagnose(seen, fits.said, made))}
    if judged is not None:
        figures["unfamiliar"] = told_apart(made, seen, judged)
    figures |= revise(bundle, seen, made, output, new_name, fitted, asdict(settings), fine)
    return write_json(output / "heads.json", figures)


def as_it_scores(
    bundle: Bundle, seen: Material, output: Path, name: str, only: Literal["fine", "uncertainty"]
) -> dict[str, Any]:
    """Write a bundle with the same units for the usual views; returns the figures of what was fitted."""
    made, fine = shipped_units(bundle), shipped_fine(bundle)
    assert made is not None  # it has reasons
    detail = Detail(bundle, seen)
    figures: dict[str, Any] = {}
    if only == "fine":
        fine = detail.better(made, detail.fit(made), fine)
        figures |= detail.figures(made, fine)
    return figures | revise(bundle, seen, made, output, name, only, fine=fine)


def scores_of(fits: Refit, made: Units) -> dict[str, Any]:
    """Figures of the score, as it was and with the units."""
    (before, before_held), (after, after_held) = fits.judge(), fits.judge(made)
    kept = after_held["srocc"] >= before_held["srocc"] - MAY_LOSE
    if not kept:
        log.warning(
            "the bundle written loses more than %g of SROCC on the held-out fold (%.4f, it was %.4f). Take more "
            "labelled images (--set images=N), or let them weigh more (--set mos=80)",
            MAY_LOSE,
            after_held["srocc"],
            before_held["srocc"],
        )
    return {
        "keeps SROCC on the held-out fold": kept,
        "as it was": before.summary() | before_held,
        "refitted": after.summary() | after_held,
        "agreement with people on kinds left out": fits.unseen_kinds(),
        "adjacent": {"as it was": before.adjacent, "refitted": after.adjacent},
        "above": {"as it was": before.above, "refitted": after.above},
    }


def better_told(made: Units, own: Units | None, seen: Material, judged: list[Pooled]) -> Units:
    """New units, with those for unfamiliar pictures that the bundle had, where these tell the pictures better that were
    not taught: another folder of strange pictures may teach less."""
    if own is None or strange.NAME not in own.names:
        return made
    others = made.saying([name for name in made.names if name != strange.NAME])
    kept = others.beside(own.saying([strange.NAME], score=False))
    areas = [told_apart(each, seen, judged)["AUC"] for each in (made, kept)]
    log.info("unfamiliar: AUC %.4f, with the units that the bundle had %.4f", *areas)
    return kept if areas[1] > areas[0] else made


def strange_files(folder: Path) -> tuple[list[Path], NDArray[np.bool_]]:
    """The pictures of a folder, and which of them are to judge by.

    Raises:
        UsageError: there are none for one of the two.
    """
    files = sorted(Path(os.fsdecode(entry.path)) for entry in Listing([folder]).files())
    judged = np.array([strange.is_judged(file) for file in files], bool)
    if judged.all() or not judged.any():
        raise UsageError(f"{folder}: {counted(len(files), 'picture')} are too few to fit on and to judge by")
    return files, judged


def strange_pictures(bundle: Bundle, folder: Path, work: Path, settings: Settings) -> tuple[list[Pooled], list[Pooled]]:
    """What each member sees in the pictures of a folder: in those to fit on, and in those to judge by.

    Raises:
        UsageError: see `strange_files`.
    """
    files, judged = strange_files(folder)
    pictures = remember(
        Eyes(bundle, settings.precision),
        len(files),
        lambda start, stop: middle_views(files[start:stop], bundle.view_size),
        cache_of(bundle, work, settings) / f"strange-{rungs.name_of(files)}",
    )
    return [each[~judged] for each in pictures], [each[judged] for each in pictures]


def told_apart(made: Units, seen: Material, judged: list[Pooled]) -> dict[str, float]:
    """AUC of strange pictures against held-out photographs, and the share of each, and of damaged ones, that is called
    unfamiliar."""
    pictures, held, damaged = (made(pooled)[:, -1] for pooled in (judged, seen.held, seen.judged.pooled))
    return {
        "AUC": area(pictures, held),
        "strange pictures": float((pictures >= LEVEL).mean()),
        "held-out photographs": float((held >= LEVEL).mean()),
        "damaged photographs": float((damaged >= LEVEL).mean()),
    }


def settings_of(changes: dict[str, Any]) -> Settings:
    """Settings with some entries changed.

    Raises:
        UsageError: there is no such entry, or its value is of another type or out of range.
    """
    settings = changed(Settings(), changes)
    try:
        whole = (
            settings.images,
            settings.better,
            settings.judged,
            settings.kinds,
            settings.components,
            settings.layers,
            settings.reason_units,
            settings.score_units,
            settings.score_steps,
            settings.large,
        )
        weights = settings.mos, settings.still, settings.cells
        if min(*whole, settings.steps) <= 0 or min(*weights, settings.checked, settings.fine_lines) < 0:
            raise ValueError("counts are above 0, weights at least 0")
        if not all(0 <= share < 1 for share in (settings.dropout, settings.score_dropout)):
            raise ValueError("dropout is from 0 to less than 1")
        if settings.precision not in EYES:
            raise ValueError(f"precision is {' or '.join(EYES)}")
    except ValueError as error:
        raise UsageError(f"--set: {error}") from None
    return settings


def _known(value: float) -> float | None:
    """For JSON, which has no NaN."""
    return None if np.isnan(value) else float(value)


def _table(found: Diagnosis) -> dict[str, dict[str, float | None]]:
    """By reason: AUC in each band, the share of good photographs that is flagged, how often it is named first."""
    return {
        reason: {
            **{f"AUC, {band}": _known(found.auc[place, i]) for i, band in enumerate(BANDS)},
            "flagged": float(found.flagged[place]),
            "named first where severe": _known(found.named[place, place]),
        }
        for place, reason in enumerate(REASONS)
    }
