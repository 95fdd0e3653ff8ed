"""A small model that says what a larger one says: one of its members on smaller views, with a head of its own.

The head is fitted to what the larger model says of the labelled photographs, which holds more than their opinions: the
mean of several networks is smoother than thirty people's. Hidden units are fitted beside it as `refit` does for any
model, so that it knows damage and gives reasons too; what damage costs they learn from the larger model as well.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from metaqap_fast.errors import UsageError
from metaqap_fast.evaluation import measure
from metaqap_fast.model import bundle as bundles
from metaqap_fast.model.bundle import Bundle
from metaqap_fast.train.build import RANGE_IMAGES
from metaqap_fast.train.detail import Detail
from metaqap_fast.train.features import middle_views
from metaqap_fast.train.material import Material, Pictures, see
from metaqap_fast.train.members import Examples
from metaqap_fast.train.ranges import measure_ranges
from metaqap_fast.train.refit import Refit, scored_by, shipped_scores
from metaqap_fast.train.refit_run import settings_of, strange_files, strange_pictures, told_apart
from metaqap_fast.train.rehead import drop_units, put_head
from metaqap_fast.train.revise import digests, revise, write_json
from metaqap_fast.train.ridge import ridge
from metaqap_fast.train.run import folder_for, prepare

log = logging.getLogger(__name__)

F64 = NDArray[np.float64]
PENALTY = 1.0  # of the head's weights, see `ridge`


def distil(
    name: str,
    root: Path,
    output: Path,
    work: Path,
    model: str,
    member: str,
    view_size: int,
    pictures: Pictures,
    low: float | None = None,
    high: float | None = None,
    bundle_name: str | None = None,
    changes: dict[str, Any] | None = None,
) -> str:
    """Make a small model of a larger one and write it as a bundle; returns the figures of both as text.

    Args:
        name: of the labelled set, see `datasets.load`, as are root, low and high.
        root: where it is.
        output: the new bundle's folder.
        work: folder of caches; a second call goes on from them.
        model: the larger bundle: a name or a folder.
        member: name of the member that is kept.
        view_size: side of the views that it is to see, in pixels.
        pictures: as for `train heads`.
        low: see `datasets.load`.
        high: see `datasets.load`.
        bundle_name: of the new bundle.
        changes: entries of `material.Settings`.
    """
    settings = settings_of(changes or {})
    larger = bundles.load(model)
    if pictures.strange is not None:
        strange_files(pictures.strange)  # before hours are spent
    _, _, data = prepare(name, root, work, None, low, high)
    folder_for(output)
    taught = see(larger, data, pictures, work, settings)
    said, said_held = scored_by(larger, taught), shipped_scores(larger, taught.held)
    del taught
    small = smaller(larger, member, view_size, data, work / f"{member}-{view_size}")
    seen = see(small, data, pictures, work, settings)
    small = with_head(small, *head(seen, said.labelled))
    fits = Refit(small, seen, settings)
    fits.follow(said)
    odd, judged = (
        strange_pictures(small, pictures.strange, work, settings) if pictures.strange is not None else (None, None)
    )
    made = fits.fit(odd=odd)
    detail = Detail(small, seen)
    fine = detail.fit(made)
    (_, alone), (after, with_units) = fits.judge(), fits.judge(made)
    figures = {
        "larger model on the held-out fold": measure(said_held, seen.held_mos),
        "head alone on the held-out fold": alone,
        "with units": after.summary() | with_units,
        **detail.figures(made, fine),
        **({} if judged is None else {"unfamiliar": told_apart(made, seen, judged)}),
        "settings": asdict(settings),
    }
    facts = {**asdict(settings), "distilled_from": larger.name, "member": member}
    name = bundle_name or f"{larger.name}-{member}-{view_size}"
    revise(small, seen, made, output, name, training=facts, fine=fine)
    return write_json(output / "heads.json", figures)


def smaller(bundle: Bundle, member: str, view_size: int, data: Examples, folder: Path) -> Bundle:
    """One member of a bundle as a bundle of its own that takes smaller views, without units; kept in `folder`.

    Its int8 ranges are measured anew: they depend on the size of the views.

    Raises:
        UsageError: there is no such member.
    """
    names = [entry["name"] for entry in bundle.document["members"]]
    if member not in names:
        raise UsageError(f"the model {bundle.name} has no member {member!r}: one of {', '.join(names)}")
    place = names.index(member)
    entry = {key: value for key, value in bundle.document["members"][place].items() if key != "units"}
    model = onnx.load(bundle.members[place].file)
    drop_units(model)
    for dimension in model.graph.input[0].type.tensor_type.shape.dim[1:3]:
        dimension.dim_value = view_size
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / entry["file"])
    photographs = data.files[:: max(1, len(data.files) // RANGE_IMAGES)]
    ranges = measure_ranges(folder / entry["file"], middle_views(photographs, view_size))
    entry["ranges"] = f"{member}.ranges.json"
    (folder / entry["ranges"]).write_text(json.dumps(ranges) + "\n")
    own = ("small_variance", "severity_variance", "fine_variance")  # of the large model
    learner = {key: value for key, value in bundle.document["meta_learner"].items() if key not in own}
    document = {
        **{key: value for key, value in bundle.document.items() if key != "hidden"},
        "name": f"{member}-{view_size}",
        "view_size": view_size,
        "members": [entry],
        "meta_learner": {**learner, "weights": [1.0], "intercept": 0.0},
        "files": digests(folder, [entry["file"], entry["ranges"]]),
    }
    write_json(folder / "bundle.json", document)
    return bundles.load(str(folder))


def with_head(bundle: Bundle, weights: F64, bias: float) -> Bundle:
    """The same bundle of one member, with another head; written where it is."""
    file = bundle.members[0].file
    model = onnx.load(file)
    put_head(model, weights, bias)
    onnx.save(model, file)
    document = {**bundle.document, "files": {**bundle.document["files"], **digests(bundle.path, [file.name])}}
    write_json(bundle.path / "bundle.json", document)
    return bundles.load(str(bundle.path))


def head(seen: Material, said: F64) -> tuple[F64, float]:
    """Weights [D] and bias on the raw taps of a single member, by ridge regression.

    Args:
        seen: what the member sees.
        said: [n] what a larger model says of the labelled photographs.
    """
    (labelled,) = seen.labelled
    return ridge(labelled.astype(np.float32), said, PENALTY)
