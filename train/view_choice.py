"""The experiment behind the choice of views, on part of BIQ2021's training split.

    python -m metaqap_fast.train.view_choice BIQ2021

1. At what size should an image be seen? Heads are fitted and judged out of fold at 512 (native), 384 and 256.
2. How should an image smaller than a view be seen? Central 320x320 crops of held-out images, resized up to
   512 or extended to 512 by mirroring, scored by a head fitted on other, whole images.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.decode import DecodeOptions, create
from metaqap_fast.engine.openvino_core import library, shared_core
from metaqap_fast.evaluation import measure
from metaqap_fast.train.datasets import biq2021
from metaqap_fast.train.features import export_onnx, views_of
from metaqap_fast.train.member import VIEW_SIZE, Features
from metaqap_fast.train.members import ALPHAS, SEED
from metaqap_fast.train.networks import read_config
from metaqap_fast.train.pretrain import first_network
from metaqap_fast.train.recipe import FOLDS
from metaqap_fast.train.ridge import fit_ridge, grouped_folds
from metaqap_fast.train.twins import groups, near_duplicates

Views = list[NDArray[np.uint8]]
SIZES = (512, 384, 256)
SMALL = 320


def main() -> None:
    """Run both experiments and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("biq2021", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    options = parser.parse_args()
    data = biq2021(options.biq2021, "train")
    chosen = np.arange(0, len(data.files), max(1, len(data.files) // options.images))
    files, mos = [data.files[i] for i in chosen], data.mos[chosen]
    folds = grouped_folds(groups(len(files), near_duplicates(files)), FOLDS, SEED)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "features.onnx"
        config = read_config(options.backbone)
        export_onnx(Features(config, first_network(config)), path)
        views = views_of(files)
        features = {size: _features(path, _resized(views, size), size) for size in SIZES}
        print(f"{options.backbone}, {len(files)} training images, {FOLDS} folds")
        for size in SIZES:
            print(
                f"  seen at {size}x{size}: {_metrics(fit_ridge(features[size], mos, folds, ALPHAS).out_of_fold, mos)}"
            )
        held = folds == 0
        head = fit_ridge(features[VIEW_SIZE][~held], mos[~held], folds[~held], ALPHAS)
        margin = (VIEW_SIZE - SMALL) // 2
        crops = [views[i][margin:-margin, margin:-margin] for i in np.flatnonzero(held)]
        before, after = (VIEW_SIZE - SMALL) // 2, (VIEW_SIZE - SMALL + 1) // 2
        mirrored = [np.pad(crop, [(before, after), (before, after), (0, 0)], mode="symmetric") for crop in crops]
        print(f"{SMALL}x{SMALL} crops of {held.sum()} held-out images")
        kinds = {"whole image": [views[i] for i in np.flatnonzero(held)], "resized up": _resized(crops, VIEW_SIZE)}
        for name, seen in {**kinds, "mirrored": mirrored}.items():
            score = _features(path, seen, VIEW_SIZE) @ head.weights + head.bias
            print(f"  {name}: {_metrics(score, mos[held])}, mean score {score.mean():.3f}")


def _resized(views: Views, size: int) -> Views:
    """Views at another size, by the decoder's own antialiased resize."""
    if views[0].shape[0] == size:
        return views
    decoder = create(DecodeOptions(size))
    return [image.views[0] for image in decoder.stream_arrays((b"", view) for view in views)]


def _features(path: Path, views: Iterable[NDArray[np.uint8]], size: int) -> NDArray[np.float32]:
    core = shared_core()
    model = core.read_model(path)
    model.reshape([1, size, size, 3])
    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "THROUGHPUT"}
    queue = library().AsyncInferQueue(core.compile_model(model, "CPU", hints))
    rows: dict[int, NDArray[np.float32]] = {}
    queue.set_callback(lambda request, i: rows.__setitem__(i, request.get_output_tensor(0).data[0].copy()))
    for i, view in enumerate(views):
        queue.start_async({0: view[None]}, i)
    queue.wait_all()
    return np.stack([rows[i] for i in range(len(rows))])


def _metrics(score: NDArray[np.float64], mos: NDArray[np.float64]) -> str:
    values = measure(score, mos)
    return f"PLCC {values['plcc']:.4f} SROCC {values['srocc']:.4f}"


if __name__ == "__main__":
    main()
