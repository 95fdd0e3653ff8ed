"""One command from a bundle to one with hidden units and reasons: see, fit, judge, write."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from metaqap_fast.errors import UsageError
from metaqap_fast.input.files import Listing
from metaqap_fast.model import bundle as bundles
from metaqap_fast.model.bundle import Bundle
from metaqap_fast.train import familiar
from metaqap_fast.train.diagnose import BANDS, Diagnosis, area, diagnose
from metaqap_fast.train.features import middle_views
from metaqap_fast.train.reasons import REASONS
from metaqap_fast.train.refit import Material, Refit, Settings, cache_of, see
from metaqap_fast.train.revise import revise
from metaqap_fast.train.run import prepare
from metaqap_fast.train.seen import Eyes, remember
from metaqap_fast.train.units import Units

log = logging.getLogger(__name__)

MAY_LOSE = 0.002  # of SROCC on the held-out fold


def refit(
    name: str,
    root: Path,
    output: Path,
    work: Path,
    model: str,
    photographs: Path,
    opinions: Path,
    low: float | None = None,
    high: float | None = None,
    bundle_name: str | None = None,
    strange: Path | None = None,
    reasons_only: bool = False,
    changes: dict[str, Any] | None = None,
) -> str:
    """Fit hidden units beside a bundle's members and write a bundle with them; returns the figures as text.

    Args:
        name: of the labelled set, see `datasets.load`, as are root, low and high.
        root: where it is.
        output: the new bundle's folder.
        work: folder of caches; a second call goes on from them.
        model: the bundle: a name or a folder.
        photographs: folder of undamaged ones.
        opinions: table of KADID's mean opinions.
        low: see `datasets.load`.
        high: see `datasets.load`.
        bundle_name: of the new bundle.
        strange: folder of pictures that are no photographs, to measure how well they are told from them.
        reasons_only: leave the scores as they are.
        changes: entries of `Settings`.
    """
    settings = _settings(changes or {})
    bundle = bundles.load(model)
    _, _, data = prepare(name, root, work, None, low, high)
    seen = see(bundle, data, photographs, opinions, work, settings)
    fits = Refit(bundle, seen, settings)
    made = fits.fit(reasons_only)
    figures = {} if reasons_only else _scores(fits, made)
    figures |= {"settings": asdict(settings), "reasons": _table(diagnose(seen, fits.said, made))}
    if strange is not None:
        figures["AUC of unfamiliar"] = _unfamiliar(bundle, seen, strange, work, settings)
    revise(bundle, seen, made, output, bundle_name or f"{bundle.name}-heads", reasons_only, asdict(settings))
    text = json.dumps(figures, indent=2)
    (output / "heads.json").write_text(text + "\n")
    return text


def _scores(fits: Refit, made: Units) -> dict[str, Any]:
    """Figures of the score, as it was and with the units."""
    (before, before_held), (after, after_held) = fits.judge(), fits.judge(made)
    kept = after_held["srocc"] >= before_held["srocc"] - MAY_LOSE
    if not kept:
        log.warning(
            "the bundle written loses more than %g of SROCC on the held-out fold (%.4f, it was %.4f). Take more "
            "labelled images (--set images=N), or let them weigh more (--set mos=20)",
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


def _unfamiliar(
    bundle: Bundle, seen: Material, folder: Path, work: Path, settings: Settings
) -> dict[str, dict[str, float]]:
    """For each member: AUC of the pictures of a folder against held-out photographs, and the share of them marked over
    .99; half of the held-out photographs say how far others are, the other half are compared."""
    files = sorted(Path(os.fsdecode(entry.path)) for entry in Listing([folder]).files())
    eyes = Eyes(bundle, settings.precision)
    pictures = remember(
        eyes,
        len(files),
        lambda start, stop: middle_views(files[start:stop]),
        cache_of(bundle, work, settings) / f"strange-{folder.resolve().name}",
    )
    found = {}
    for place, member in enumerate(bundle.members):
        held = seen.held[place]
        model = familiar.fit(seen.labelled[place], held[::2])
        marks, photographs = model.unfamiliar(pictures[place]), model.unfamiliar(held[1::2])
        distances = model.distance(pictures[place]), model.distance(held[1::2])
        found[member.name] = {
            "AUC": area(*distances),
            "marked over .99": float((marks > 0.99).mean()),
            "photographs marked over .99": float((photographs > 0.99).mean()),
        }
    return found


def _settings(changes: dict[str, Any]) -> Settings:
    known = [field.name for field in fields(Settings)]
    for entry in changes:
        if entry not in known:
            raise UsageError(f"there is no setting {entry!r}: {', '.join(known)}")
    try:
        settings = replace(Settings(), **changes)
        whole = (
            settings.images,
            settings.better,
            settings.judged,
            settings.kinds,
            settings.components,
            settings.layers,
            settings.reason_units,
        )
        if min(*whole, settings.steps) <= 0 or min(settings.mos, settings.still, settings.cells) < 0:
            raise ValueError("counts are above 0, weights at least 0")
        if not 0 <= settings.dropout < 1:
            raise ValueError("dropout is from 0 to less than 1")
    except (TypeError, ValueError) as error:
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
