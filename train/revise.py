"""Writes a bundle with hidden units: the same networks and heads, shares of the units beside their predictions."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from metaqap_fast import __version__
from metaqap_fast.evaluation import measure
from metaqap_fast.model.bundle import FORMAT_VERSION, Bundle
from metaqap_fast.model.meta import MetaLearner, combine, spread
from metaqap_fast.model.readout import NEVER
from metaqap_fast.train.doubt import SEEN_ALONE, SIGMAS, added_variance
from metaqap_fast.train.finer import lowered
from metaqap_fast.train.material import Material
from metaqap_fast.train.meta import calibrate
from metaqap_fast.train.opinion import opinions
from metaqap_fast.train.rated import Rated
from metaqap_fast.train.reasons import REASONS, severities
from metaqap_fast.train.refit import said
from metaqap_fast.train.rehead import add_units
from metaqap_fast.train.units import Units

F64 = NDArray[np.float64]
Fitted = Literal["heads", "scores", "reasons", "fine", "uncertainty"]
# Facts of training that are no longer true of a bundle when this was fitted.
REPLACED: dict[Fitted, tuple[Fitted, ...]] = {
    "heads": ("heads", "scores", "reasons", "fine", "uncertainty"),
    "scores": ("scores", "fine", "uncertainty"),
    "reasons": ("reasons", "uncertainty"),
    "fine": ("fine",),
    "uncertainty": ("uncertainty",),
}
SCORED: tuple[Fitted, ...] = ("heads", "scores")  # what changes scores, but for fine views
DIGITS = 7  # of the last layer's numbers, which are read as float32


def revise(
    bundle: Bundle,
    seen: Material,
    made: Units,
    out: Path,
    name: str,
    fitted: Fitted = "heads",
    training: dict[str, Any] | None = None,
    fine: Units | None = None,
) -> dict[str, Any]:
    """Write the bundle; returns how many opinions its uncertainty holds, see `covered`.

    The meta-learner stays: the units were fitted for it. The uncertainty is calibrated anew on the held-out fold.

    Args:
        bundle: whose members are taken.
        seen: what they see, for the uncertainty.
        made: the units.
        out: folder; what is in it of an older bundle is replaced.
        name: of the new bundle.
        fitted: what was; if not heads or scores, scores stay as they are, and all of the uncertainty but what damage
            adds.
        training: facts for `bundle.json`.
        fine: units that read fine views, if there are some.
    """
    out.mkdir(parents=True, exist_ok=True)
    files: dict[str, str] = {}
    entries = [dict(entry) for entry in bundle.document["members"]]
    every = [made] if fine is None else [made, fine]
    starts = np.concatenate([each.start for each in every])
    for place, one in enumerate(bundle.members):
        model = onnx.load(one.file)
        start = starts if place == 0 else np.zeros_like(starts)  # the shares are added up
        add_units(model, np.concatenate([each.shares[place] for each in every], 1), start)
        entries[place]["units"] = len(start)
        onnx.save(model, out / one.file.name)
        names = [one.file.name]
        if "ranges" in entries[place]:
            names.append(entries[place]["ranges"])
            shutil.copyfile(bundle.path / names[1], out / names[1])
        files |= digests(out, names)
    learner, held = _uncertainty(bundle, seen, made) if fitted in SCORED else ({}, {})
    meta = replace(bundle.meta, **learner)
    figures: dict[str, Any] = {"uncertainty": {}}
    if fitted != "fine":
        found = errors(meta, bundle, seen, made)
        learner["severity_variance"] = rounded_points(_of_damage(found))
        figures = covered(found, learner["severity_variance"])
    if seen.rated is not None and fine is not None:
        change, large_ones = errors_of_rated(replace(meta, **learner), bundle, seen.rated, made, fine)
        learner["fine_variance"] = rounded_points(
            added_variance(change, large_ones.error, large_ones.variance, seen.rated.weight)
        )
        added = np.interp(change, *np.array(learner["fine_variance"]).T)
        figures["uncertainty"]["rated large pictures"] = _inside(large_ones, added)
    document = {
        **bundle.document,
        "format_version": FORMAT_VERSION,
        "name": name,
        "members": entries,
        "hidden": {
            "reasons": list(made.names),
            "weights": [[_rounded(value) for value in row] for row in made.weights],
            "bias": [_rounded(value) for value in made.bias],
            "steeper": [_rounded(value) for value in made.steeper],
            **({} if fine is None else {"fine": _last(fine)}),
        },
        "meta_learner": {**bundle.document["meta_learner"], **learner},
        "training": {
            **{key: fact for key, fact in bundle.document.get("training", {}).items() if key not in REPLACED[fitted]},
            fitted: {
                "of": bundle.name,
                "program_version": __version__,
                **held,
                **(training or {}),
            },
        },
        "files": files,
    }
    write_json(out / "bundle.json", document)
    return figures


def write_json(path: Path, document: dict[str, Any]) -> str:
    """A document as JSON that people can read; returns the text."""
    text = json.dumps(document, indent=2)
    path.write_text(text + "\n")
    return text


def digests(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """The sha256 of files in a folder, as `bundle.json` has them."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def _uncertainty(bundle: Bundle, seen: Material, made: Units) -> tuple[dict[str, Any], dict[str, Any]]:
    """Entries of the meta-learner, and what the score reaches on the held-out fold."""
    members = said(bundle, seen.held, made)
    weights = np.array(bundle.meta.weights)
    score = members @ weights + bundle.meta.intercept
    floor, slope = calibrate(score, spread(members, score, weights), seen.held_mos)
    figures = {key: round(value, 4) for key, value in measure(score, seen.held_mos).items()}
    return {"variance_floor": tuple(floor), "variance_slope": slope}, {"held_out": figures}


@dataclass(frozen=True, slots=True)
class Errors:
    """Of pictures [n]: the worst severity, score less opinion, and the variance that is said without damage."""

    severity: F64
    error: F64
    variance: F64


def errors(meta: MetaLearner, bundle: Bundle, seen: Material, made: Units) -> tuple[Errors, Errors]:
    """Of held-out photographs with their opinions, and of damaged ones that are judged by with what people said of such
    damage."""
    of_kinds = opinions(seen.cells)
    asked = severities(seen.judged.rungs, of_kinds)[:, [REASONS.index(name) for name in SEEN_ALONE]]
    alone = np.array([len(rung.steps) == 1 for rung in seen.judged.rungs])
    rows = np.flatnonzero((np.nan_to_num(asked) > 0).any(axis=1) & alone)
    steps = [seen.judged.rungs[row].steps[0] for row in rows]
    damaged = [pooled[rows] for pooled in seen.judged.pooled]
    opinion = np.array([of_kinds[step.kind][step.level] for step in steps])
    found = []
    for pooled, truth in ((seen.held, seen.held_mos), (damaged, (opinion - 1) / 4)):
        members = said(bundle, pooled, made).astype(np.float32)
        score, uncertainty = combine(members, meta)
        severity = made.severities(pooled).max(1, initial=0.0)
        found.append(Errors(severity, score - truth, uncertainty.astype(np.float64) ** 2))
    return found[0], found[1]


def _of_damage(both: tuple[Errors, Errors]) -> list[tuple[float, float]]:
    """What damage adds to the uncertainty; photographs and damaged ones count alike, however many there are."""
    weight = np.concatenate([np.full(len(each.error), 1 / len(each.error)) for each in both])
    severity, error, variance = (
        np.concatenate([getattr(each, name) for each in both]) for name in ("severity", "error", "variance")
    )
    return added_variance(severity, error, variance, weight)


def errors_of_rated(meta: MetaLearner, bundle: Bundle, seen: Rated, made: Units, fine: Units) -> tuple[F64, Errors]:
    """How much the fine views of rated pictures lower their predictions [n], and their errors; the variance has what
    damage adds."""
    members = said(bundle, seen.pooled, made)
    change = lowered(fine, seen.fine, members.mean(1))
    score, uncertainty = combine((members + change[:, None]).astype(np.float32), meta)
    severity = made.severities(seen.pooled).max(1, initial=0.0)
    variance = uncertainty.astype(np.float64) ** 2 + np.interp(severity, *np.array(meta.severity_variance).T)
    return -change, Errors(severity, score - seen.opinion, variance)


def covered(both: tuple[Errors, Errors], points: Sequence[tuple[float, ...]]) -> dict[str, dict[str, dict[str, float]]]:
    """The share of opinions inside SIGMAS standard deviations, and their mean, without what damage adds and with it.

    Args:
        both: see `errors`.
        points: (severity, variance) of what damage adds.
    """
    names, figures = ("held-out photographs", "damaged photographs"), {}
    places, values = np.array(points, np.float64).T
    for name, each in zip(names, both, strict=True):
        figures[name] = _inside(each, np.interp(each.severity, places, values))
    return {"uncertainty": figures}


def _inside(found: Errors, added: F64) -> dict[str, float]:
    """The share of opinions inside, and the mean uncertainty, without a variance [n] that is added and with it."""
    return {
        key: round(float(value), 4)
        for word, sigma in (("before", np.sqrt(found.variance)), ("after", np.sqrt(found.variance + added)))
        for key, value in (
            (f"inside, {word}", (np.abs(found.error) < SIGMAS * sigma).mean()),
            (f"mean uncertainty, {word}", sigma.mean()),
        )
    }


def rounded_points(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points (place, variance) as a bundle has them. Of those whose places fall together, the last: it is highest."""
    return list({_rounded(place): _rounded(variance) for place, variance in points}.items())


def _last(fine: Units) -> dict[str, Any]:
    """The last layer of the units that read fine views."""
    weights = [_rounded(value) for value in fine.weights[:, 0]]
    last = {"weights": weights, "bias": _rounded(fine.bias[0]), "lines": fine.lines}
    fading = dict(zip(("poor", "fair", "lost"), fine.fading, strict=True))
    return last if fine.fading == NEVER else {**last, "fading": fading}


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
