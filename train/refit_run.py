"""One command from a bundle to one with better heads and reasons: see, fit, choose, judge, write."""

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
from metaqap_fast.train import familiar, opinion
from metaqap_fast.train.diagnose import BANDS, Diagnosis, area, diagnose, teach
from metaqap_fast.train.features import middle_views
from metaqap_fast.train.reasons import REASONS
from metaqap_fast.train.refit import Heads, Material, Refit, Settings, cache_of, see
from metaqap_fast.train.revise import revise
from metaqap_fast.train.run import prepare
from metaqap_fast.train.seen import Eyes, remember
from metaqap_fast.train.trial import Trial

log = logging.getLogger(__name__)

PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0)
STILL = (0.3, 1.0, 3.0)
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
    """Fit a bundle's heads anew and write a bundle with them; returns the figures as text.

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
        changes: entries of `Settings`; `penalty` and `still`, if given, are not searched for.
    """
    changes = changes or {}
    settings = _settings(changes)
    bundle = bundles.load(model)
    _, _, data = prepare(name, root, work, None, low, high)
    seen = see(bundle, data, photographs, opinions, work, settings)
    figures, new, chosen = ({}, None, settings) if reasons_only else _heads(bundle, seen, settings, changes)
    said = opinion.opinions(seen.cells)
    taught = [teach(seen, said, member) for member in range(len(bundle.members))]
    diagnoses = [diagnose(seen, said, member, of) for member, of in enumerate(taught)]
    member = int(np.argmax([np.nanmean(one.auc) for one in diagnoses]))
    figures |= {
        "settings": asdict(chosen),
        "reasons": {one.name: _table(each) for one, each in zip(bundle.members, diagnoses, strict=True)},
        "reasons are given by": bundle.members[member].name,
    }
    if strange is not None:
        figures["AUC of unfamiliar"] = _unfamiliar(bundle, seen, strange, work, settings)
    revise(bundle, seen, new, output, bundle_name or f"{bundle.name}-heads", taught[member], member, asdict(chosen))
    text = json.dumps(figures, indent=2)
    (output / "heads.json").write_text(text + "\n")
    return text


def _heads(
    bundle: Bundle, seen: Material, settings: Settings, changes: dict[str, Any]
) -> tuple[dict[str, Any], Heads, Settings]:
    """Other heads for the score: their figures, they themselves, and the settings that were chosen."""
    fits = Refit(bundle, seen)
    before, before_held = fits.judge()
    tried = [
        (each, *fits.judge(fits.fit(each)))
        for each in (
            replace(settings, penalty=penalty, still=still)
            for penalty in ([settings.penalty] if "penalty" in changes else PENALTIES)
            for still in ([settings.still] if "still" in changes else STILL)
        )
    ]
    for each, found, held in tried:
        log.info("penalty %g, still %g: %s", each.penalty, each.still, _brief(found, held))
    log.info("as it is: %s", _brief(before, before_held))
    good = [one for one in tried if one[2]["srocc"] >= before_held["srocc"] - MAY_LOSE]
    if not good:
        log.warning(
            "every setting loses more than %g of SROCC on the held-out fold: the bundle written is worse there. "
            "Take more labelled images (--set images=N)",
            MAY_LOSE,
        )
        good = tried
    chosen, after, after_held = max(good, key=lambda one: one[1].people + _adjacent(one[1]))
    unseen = fits.unseen_kinds(chosen)
    return (
        {
            "keeps SROCC on the held-out fold": after_held["srocc"] >= before_held["srocc"] - MAY_LOSE,
            "as it was": before.summary() | before_held,
            "refitted": after.summary() | after_held,
            "agreement with people on kinds left out": unseen,
            "adjacent": {"as it was": before.adjacent, "refitted": after.adjacent},
            "above": {"as it was": before.above, "refitted": after.above},
        },
        fits.fit(chosen),
        chosen,
    )


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
        if min(settings.images, settings.judged, settings.kinds, settings.penalty) <= 0 or settings.still < 0:
            raise ValueError("images, judged, kinds and penalty are above 0, still at least 0")
    except (TypeError, ValueError) as error:
        raise UsageError(f"--set: {error}") from None
    return settings


def _adjacent(found: Trial) -> float:
    return float(np.mean(list(found.adjacent.values())))


def _brief(found: Trial, held: dict[str, float]) -> str:
    return f"people {found.people:.3f}, adjacent {_adjacent(found):.3f}, SROCC {held['srocc']:.4f}"


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
