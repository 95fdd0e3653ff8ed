"""Writes a bundle with other heads: the same networks, new weights of their last step, reasons beside the score."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from metaqap_fast import __version__
from metaqap_fast.evaluation import measure
from metaqap_fast.model.bundle import FORMAT_VERSION, Bundle
from metaqap_fast.model.meta import spread
from metaqap_fast.train.members import SEED
from metaqap_fast.train.meta import calibrate, held_out, stepwise
from metaqap_fast.train.reasons import REASONS, Reasons
from metaqap_fast.train.recipe import FOLDS
from metaqap_fast.train.refit import Heads, Material, predictions
from metaqap_fast.train.rehead import add_outputs, replace_head
from metaqap_fast.train.ridge import grouped_folds

F64 = NDArray[np.float64]


def revise(
    bundle: Bundle,
    seen: Material,
    of: Heads | None,
    out: Path,
    name: str,
    reasons: Reasons | None = None,
    member: int = 0,
    training: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the bundle; returns its `bundle.json`.

    With other heads the meta-learner is fitted anew on the held-out fold, and so is the uncertainty. A member whose
    weight is 0 then is left in with it, so that what was measured stays what is shipped.

    Args:
        bundle: whose networks are taken.
        seen: what they see, for the meta-learner.
        of: heads of each member; None leaves scores and uncertainties as they are, to the last bit.
        out: folder; what is in it of an older bundle is replaced.
        name: of the new bundle.
        reasons: heads of reasons; None for none.
        member: that gives them.
        training: facts for `bundle.json`.
    """
    out.mkdir(parents=True, exist_ok=True)
    files: dict[str, str] = {}
    entries = [dict(entry) for entry in bundle.document["members"]]
    for place, one in enumerate(bundle.members):
        model = onnx.load(one.file)
        if of is not None:
            replace_head(model, *of[place])
        entries[place].pop("outputs", None)
        if reasons is not None and place == member:
            add_outputs(model, reasons.weights, reasons.bias)
            entries[place]["outputs"] = list(REASONS)
        onnx.save(model, out / one.file.name)
        names = [one.file.name]
        if "ranges" in entries[place]:
            names.append(entries[place]["ranges"])
            shutil.copyfile(bundle.path / names[1], out / names[1])
        files |= {file: hashlib.sha256((out / file).read_bytes()).hexdigest() for file in names}
    learner, held = dict[str, Any](), dict[str, Any]()
    if of is not None:
        learner, held["held_out"] = _learner(predictions(seen.held, of), seen.held_mos)
    document = {
        **bundle.document,
        "format_version": FORMAT_VERSION,
        "name": name,
        "members": entries,
        "meta_learner": {**bundle.document["meta_learner"], **learner},  # what is of no head stays
        "training": {
            **bundle.document.get("training", {}),
            "heads": {"of": bundle.name, "program_version": __version__, **held, **(training or {})},
        },
        "files": files,
    }
    (out / "bundle.json").write_text(json.dumps(document, indent=2) + "\n")
    return document


def _learner(members: F64, mos: F64) -> tuple[dict[str, Any], dict[str, float]]:
    """The meta-learner's entry, and what it reaches on rows that it was not fitted on."""
    folds = grouped_folds(np.arange(len(mos)), FOLDS, SEED)
    selection = stepwise(members, mos, folds)
    kept = np.flatnonzero(selection.weights)
    score = held_out(members[:, kept], mos, folds)
    floor, slope = calibrate(score, spread(members[:, kept], score, selection.weights[kept]), mos)
    entry = {
        "weights": selection.weights.tolist(),
        "intercept": selection.intercept,
        "variance_floor": floor,
        "variance_slope": slope,
    }
    return entry, {key: round(value, 4) for key, value in measure(score, mos).items()}
