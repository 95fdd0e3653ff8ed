"""From trained members to a bundle: the meta-learner on held-out predictions, calibration, ONNX, `bundle.json`."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from metaqap_fast import __version__
from metaqap_fast.evaluation import measure
from metaqap_fast.model.bundle import FORMAT, FORMAT_VERSION
from metaqap_fast.model.meta import spread
from metaqap_fast.train.features import export_onnx, views_of
from metaqap_fast.train.member import VIEW_SIZE, Member
from metaqap_fast.train.members import SEED, Examples, Trained
from metaqap_fast.train.meta import Selection, calibrate, held_out, stepwise
from metaqap_fast.train.ranges import measure_ranges
from metaqap_fast.train.recipe import FOLDS
from metaqap_fast.train.ridge import grouped_folds

log = logging.getLogger(__name__)

F64 = NDArray[np.float64]
RANGE_IMAGES = 100  # photographs that the int8 ranges are measured on


def write_bundle(
    out: Path, name: str, members: Sequence[Trained], data: Examples, training: dict[str, Any], card: str | None = None
) -> dict[str, Any]:
    """Select and weigh members, and write the bundle; returns its `bundle.json`.

    Args:
        out: the bundle's folder; files of an older bundle in it are replaced, a model card in it is kept.
        name: of the bundle.
        members: what the meta-learner may choose from.
        data: what they were trained on.
        training: facts for `bundle.json`: data set, split, budget.
        card: text of README.md if there is none yet.
    """
    selection, document = combine_members(members, data)
    kept = [member for member, weight in zip(members, selection.weights, strict=True) if weight]
    document = {"format": FORMAT, "format_version": FORMAT_VERSION, "name": name, **document}
    document["training"] = training | document["training"]
    views = views_of(data.files[:: max(1, len(data.files) // RANGE_IMAGES)])
    _write(out, document, [(member.name, member.member) for member in kept], views)
    if card and not (out / "README.md").exists():
        (out / "README.md").write_text(card)
    return document


def combine_members(members: Sequence[Trained], data: Examples) -> tuple[Selection, dict[str, Any]]:
    """The meta-learner on the images that every member has a held-out prediction of, and what is written of it."""
    predictions, mos, folds = common(members, data)
    selection = stepwise(predictions, mos, folds)
    for member, quality in selection.steps:
        log.info("meta-learner: + %s, held-out PLCC %.4f", members[member].name, quality)
    kept = np.flatnonzero(selection.weights)
    score = held_out(predictions[:, kept], mos, folds)
    weights = selection.weights[kept]
    floor, slope = calibrate(score, spread(predictions[:, kept], score, weights), mos)
    average = _rounded(measure(predictions.mean(1), mos))
    log.info("held out: meta-learner %s, plain average %s", _rounded(measure(score, mos)), average)
    return selection, {
        "view_size": VIEW_SIZE,
        "score_scale": "MOS, 0 worst to 1 best",
        "licence": "Apache-2.0",
        "members": [
            {"name": m.name, "file": f"{m.name}.onnx", "ranges": f"{m.name}.ranges.json", **m.facts}
            for m in (members[int(i)] for i in kept)
        ],
        "meta_learner": {
            "weights": [float(w) for w in weights],
            "intercept": selection.intercept,
            "variance_floor": floor,
            "variance_slope": slope,
        },
        "training": {
            "program_version": __version__,
            "images": len(data.files),
            "near_duplicates": data.twins,
            "folds": FOLDS,
            "seed": SEED,
            "offered": [member.name for member in members],
            "selection": [{"member": members[m].name, "held_out_plcc": round(q, 4)} for m, q in selection.steps],
            "held_out_images": len(mos),
            "held_out": _rounded(measure(score, mos)),
            "held_out_plain_average": average,
        },
    }


def common(members: Sequence[Trained], data: Examples) -> tuple[F64, F64, NDArray[np.int64]]:
    """Predictions [n, M], MOS [n] and folds [n] of the images that every member has a held-out prediction of."""
    predictions = np.stack([member.held_out for member in members], 1)
    seen = np.isfinite(predictions).all(1)
    folds = data.folds[seen]
    if len(np.unique(folds)) < FOLDS:  # one fold was held out: the regression is judged on folds of its own
        folds = grouped_folds(np.arange(int(seen.sum())), FOLDS, SEED)
    return predictions[seen], data.mos[seen], folds


def _rounded(metrics: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in metrics.items()}


def _write(
    out: Path, document: dict[str, Any], members: Sequence[tuple[str, Member]], photographs: Sequence[NDArray[np.uint8]]
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for old in (*out.glob("*.onnx"), *out.glob("*.ranges.json")):
        old.unlink()
    files = {}
    for name, module in members:
        path = out / f"{name}.onnx"
        export_onnx(module, path)
        compress(path)
        ranges = path.with_suffix(".ranges.json")
        ranges.write_text(json.dumps(measure_ranges(path, photographs), indent=0) + "\n")
        for file in (path, ranges):
            files[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    (out / "bundle.json").write_text(json.dumps({**document, "files": files}, indent=2) + "\n")


def compress(path: Path) -> None:
    """Store large convolution weights as fp16 and a cast; lossless, since `Features` rounded them to fp16."""
    model = onnx.load(path)
    casts = []
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        half = values.astype(np.float16)
        if values.dtype != np.float32 or values.size < 64 or not np.array_equal(half.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}.fp16"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.fp16"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, path)
