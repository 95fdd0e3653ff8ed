"""Bundle version 0: frozen ImageNet networks, pooled features, ridge heads, stepwise meta-learner.

    metaqap-fast train frozen BIQ2021 -o bundle/ --work work/

Features of all training images are cached in the work folder; everything after them is closed form. The
test split is not opened.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from metaqap_fast import __version__
from metaqap_fast.bundle import FORMAT, FORMAT_VERSION
from metaqap_fast.combine import spread
from metaqap_fast.evaluate import measure
from metaqap_fast.train.backbones import BACKBONES, Features
from metaqap_fast.train.datasets import biq2021
from metaqap_fast.train.features import VIEW_SIZE, export_onnx, extract, views_of
from metaqap_fast.train.meta import MetaLearner, calibrate, held_out, stepwise
from metaqap_fast.train.ranges import measure_ranges
from metaqap_fast.train.ridge import Head, fit_ridge, grouped_folds
from metaqap_fast.train.twins import groups, near_duplicates

log = logging.getLogger(__name__)

FOLDS = 5
SEED = 2021
RANGE_IMAGES = 100  # photographs that the int8 ranges are measured on
ALPHAS = (0.5, 1.0, 2.0)


class Member(nn.Module):
    """A frozen network, its pooled features and a linear head: [N, S, S, 3] uint8 -> [N, 1] MOS."""

    weights: Tensor
    bias: Tensor

    def __init__(self, features: Features, head: Head) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("weights", torch.tensor(head.weights, dtype=torch.float32)[:, None])
        self.register_buffer("bias", torch.tensor(head.bias, dtype=torch.float32))

    def forward(self, image: Tensor) -> Tensor:
        """[N, S, S, 3] uint8 -> [N, 1] float32."""
        prediction: Tensor = self.features(image) @ self.weights + self.bias
        return prediction


def build(root: Path, out: Path, work: Path, names: Sequence[str] = tuple(BACKBONES)) -> dict[str, Any]:
    """Fit and write the bundle; returns its `bundle.json`.

    Args:
        root: BIQ2021, see `datasets.biq2021`.
        out: the bundle's folder; files of an older bundle in it are replaced.
        work: folder for cached features (some 250 MB for each network).
        names: backbones to offer to the meta-learner.
    """
    work.mkdir(parents=True, exist_ok=True)
    data = biq2021(root, "train")
    twins = near_duplicates(data.files)
    folds = grouped_folds(groups(len(data.files), twins), FOLDS, SEED)
    log.info("%s: %d images, %d twin pairs kept within folds", data.name, len(data.files), len(twins))
    heads: dict[str, Head] = {}
    for name in names:
        features = extract(Features(name), data.files, work / f"{name}.npy")
        heads[name] = fit_ridge(features, data.mos, folds, ALPHAS)
        log.info("%s: alpha %g, out of fold %s", name, heads[name].alpha, _short(heads[name].out_of_fold, data.mos))
    predictions = np.stack([heads[name].out_of_fold for name in names], axis=1)
    learner = stepwise(predictions, data.mos, folds)
    for member, quality in learner.steps:
        log.info("meta-learner: + %s, held-out PLCC %.4f", names[member], quality)
    kept = [m for m in range(len(names)) if learner.weights[m]]
    document = _document(names, heads, learner, kept, predictions, data.mos, folds)
    document["training"]["twin_pairs"] = len(twins)
    modules = [(names[m], Member(Features(names[m]), heads[names[m]])) for m in kept]
    _write(out, document, modules, views_of(data.files[:: len(data.files) // RANGE_IMAGES]))
    return document


def _short(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    values = measure(x, y)
    return f"PLCC {values['plcc']:.4f} SROCC {values['srocc']:.4f}"


def _document(
    names: Sequence[str],
    heads: dict[str, Head],
    learner: MetaLearner,
    kept: Sequence[int],
    predictions: NDArray[np.float64],
    mos: NDArray[np.float64],
    folds: NDArray[np.int64],
) -> dict[str, Any]:
    score = held_out(predictions[:, kept], mos, folds)
    weights = learner.weights[kept]
    floor, slope = calibrate(score, spread(predictions[:, kept], score, weights), mos)
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": "biq2021-frozen-v0",
        "view_size": VIEW_SIZE,
        "score_scale": "BIQ2021 MOS, 0 worst to 1 best",
        "licence": "Apache-2.0",
        "members": [
            {
                "name": names[m],
                "file": f"{names[m]}.onnx",
                "ranges": f"{names[m]}.ranges.json",
                "alpha": heads[names[m]].alpha,
                "initial_weights": BACKBONES[names[m]].distribution,
                "initial_weights_licence": BACKBONES[names[m]].licence,
                "out_of_fold": _round(measure(heads[names[m]].out_of_fold, mos)),
            }
            for m in kept
        ],
        "meta_learner": {
            "weights": [float(w) for w in weights],
            "intercept": learner.intercept,
            "variance_floor": floor,
            "variance_slope": slope,
        },
        "training": {
            "data": "BIQ2021, official training split, 10,000 images",
            "program_version": __version__,
            "folds": FOLDS,
            "seed": SEED,
            "selection": [{"member": names[m], "held_out_plcc": round(q, 4)} for m, q in learner.steps],
            "held_out": _round(measure(score, mos)),
            "held_out_plain_average": _round(measure(predictions.mean(axis=1), mos)),
        },
    }


def _round(metrics: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in metrics.items()}


def _write(
    out: Path,
    document: dict[str, Any],
    members: Sequence[tuple[str, Member]],
    photographs: Sequence[NDArray[np.uint8]],
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
