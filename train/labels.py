"""Full-reference metrics, turned into one quality target per distorted image.

    python -m metaqap_fast.train.labels PHOTOGRAPHS -o train/labels.json

writes the calibration table anew: quantiles of each metric over a seeded sample of crops, kinds and levels.

The rule: each metric becomes its rank, the share of the calibration sample that it judges worse, read off the table
by interpolation; the target is the mean rank. An undistorted image ranks first for every metric, so its target is
exactly 1. Ranks put metrics of any scale, direction and curvature on common ground, and a mean of ranks needs no
opinion scores. The level index is not used: at level 1 a blur is the identity and a saturation of .4 is not.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

import numpy as np
import piq
import torch
from numpy.typing import NDArray
from torch import Tensor

from metaqap_fast.errors import UsageError
from metaqap_fast.train.distortions import DISTORTIONS, LEVELS, distort, stretch
from metaqap_fast.train.features import decoded

log = logging.getLogger(__name__)

Metric = Callable[[Tensor, Tensor], Tensor]  # (distorted, reference) [N, 3, H, W] in 0..1 -> [N]


def _of(function: Callable[..., Tensor], **options: object) -> Metric:
    return functools.partial(function, data_range=1.0, reduction="none", **options)


def _vif(distorted: Tensor, reference: Tensor) -> Tensor:
    """VIF passes 1 where contrast was raised: as far from the identity as its reciprocal below 1."""
    vif = piq.vif_p(distorted, reference, data_range=1.0, reduction="none")
    return torch.where(vif > 1, 1 / vif.clamp_min(1), vif)


# All from piq, in their colour form where they have one; GMSD, DSS and VIF see luminance alone. Left out: SR-SIM, whose
# value for one image depends on the rest of its batch, and IW-SSIM, which cannot be computed for flat images.
_METRICS: dict[str, Metric] = {
    "ssim": _of(piq.ssim, downsample=False),
    "ms_ssim": _of(piq.multi_scale_ssim),
    "fsim": _of(piq.fsim, chromatic=True),
    "vsi": _of(piq.vsi),
    "gmsd": _of(piq.gmsd),
    "ms_gmsd": _of(piq.multi_scale_gmsd, chromatic=True),
    "mdsi": _of(piq.mdsi),
    "haarpsi": _of(piq.haarpsi),
    "dss": _of(piq.dss),
    "vif": _vif,
}
METRICS: tuple[str, ...] = tuple(_METRICS)
FAST_METRICS: tuple[str, ...] = ("ssim", "gmsd", "mdsi", "haarpsi")
LOWER_IS_BETTER = frozenset({"gmsd", "ms_gmsd", "mdsi"})  # 0 at the identity; the others are 1 there
TOLERANCE = 2e-4  # nearer than this to its value at the identity, a metric sees no distortion but rounding
KNOTS = 129


@torch.no_grad()
def fr_metrics(reference: Tensor, distorted: Tensor, fast: bool = False) -> Tensor:
    """[N, K] the METRICS of each pair, in their own units and directions; FAST_METRICS alone if `fast`.

    Both are stretched first, as `distort` does: a distorted image is compared with what was distorted.

    Args:
        reference: [N, 3, H, W] float32 RGB in 0..1, at least 161 pixels a side (MS-SSIM's five scales).
        distorted: the same shape.
        fast: about a sixth of the time, for a small budget; its target ranks images nearly as the full one does.
    """
    pair = stretch(distorted), stretch(reference)
    return torch.stack([_METRICS[name](*pair).reshape(-1).float() for name in (FAST_METRICS if fast else METRICS)], 1)


def goodness(metrics: Tensor, names: tuple[str, ...] = METRICS) -> Tensor:
    """[N, K] the metrics as 0 at the identity and less the further from it, whatever their direction."""
    lower = torch.tensor([name in LOWER_IS_BETTER for name in names], device=metrics.device)
    return torch.where(lower, -metrics, metrics - 1)


def quality_target(metrics: Tensor, fast: bool = False) -> Tensor:
    """[N] in 0..1, 1 for the identity: the mean over the metrics of each one's rank in the calibration sample.

    Args:
        metrics: [N, K] from `fr_metrics`, called with the same `fast`.
        fast: of FAST_METRICS alone.
    """
    names = FAST_METRICS if fast else METRICS
    if metrics.ndim != 2 or metrics.shape[1] != len(names):
        raise ValueError(f"metrics {tuple(metrics.shape)} for {len(names)} metrics")
    table = calibration()
    good = goodness(metrics, names).double()
    ranks = [_rank(good[:, i].contiguous(), table[name].to(metrics.device)) for i, name in enumerate(names)]
    return torch.stack(ranks, 1).nanmean(1).float()


def _rank(good: Tensor, knots: Tensor) -> Tensor:
    """The share of the calibration sample below `good` [N]: linear between the quantiles, 1 from -TOLERANCE on.

    The best of the sample has rank K / (K + 1), for K quantiles: less than the identity's.
    """
    knots = torch.cat([knots.clamp_max(-TOLERANCE), knots.new_tensor([-TOLERANCE])])
    ranks = torch.cat([torch.linspace(0, 1 - 1 / len(knots), len(knots) - 1), torch.ones(1)]).to(knots)
    above = torch.searchsorted(knots, good, right=True)
    low, high = (above - 1).clamp_min(0), above.clamp_max(len(knots) - 1)
    part = (good - knots[low]) / (knots[high] - knots[low]).clamp_min(1e-12)
    return ranks[low] + part.clamp(0, 1) * (ranks[high] - ranks[low])


@functools.cache
def calibration() -> dict[str, Tensor]:
    """The committed table: metric -> [KNOTS] quantiles of its `goodness` at equal steps of 0..1, ascending."""
    document = json.loads(resources.files("metaqap_fast.train").joinpath("labels.json").read_text())
    return {name: torch.tensor(document["goodness"][name], dtype=torch.float64) for name in METRICS}


def sample(files: list[Path], cells: int, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor, NDArray[np.int64]]]:
    """Per photograph: `cells` crops [cells, 3, size, size], their distorted selves, and their kinds and levels.

    The 125 cells are dealt like cards, so that each comes equally often.
    """
    rng = np.random.default_rng(seed)
    deck: list[int] = []
    for number, image in enumerate(decoded(files)):
        view = image.views[0]
        while len(deck) < cells:
            deck.extend(int(card) for card in rng.permutation(len(DISTORTIONS) * LEVELS))
        dealt, deck = np.array(deck[:cells]), deck[cells:]
        corners = rng.integers(0, [view.shape[0] - size + 1, view.shape[1] - size + 1], (cells, 2))
        crops = np.stack([view[y : y + size, x : x + size] for y, x in corners])
        images = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
        cell = np.stack([dealt // LEVELS + 1, dealt % LEVELS + 1], 1)
        seeds = [seed + number * cells + i for i in range(cells)]
        yield images, distort(images, cell[:, 0].tolist(), cell[:, 1].tolist(), seeds), cell


def table_of(metrics: Tensor) -> dict[str, list[float]]:
    """Metric -> KNOTS quantiles of its goodness over metrics [M, K], images that no metric tells apart left out."""
    good = goodness(metrics).double()
    good = good[(good < -TOLERANCE).any(1)]
    quantiles = torch.quantile(good, torch.linspace(0, 1, KNOTS, dtype=torch.float64), dim=0)
    return {name: [float(f"{v:.6g}") for v in quantiles[:, i].tolist()] for i, name in enumerate(METRICS)}


def main() -> None:
    """Measure the calibration table on photographs without distortions of their own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=10, help="distorted crops of each photograph")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--raw", type=Path, help="also keep kind, level and every metric of each sample (npz)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    suffixes = {".webp", ".png", ".bmp", ".tif", ".tiff", ".jpg"}
    files = sorted(p for p in options.photographs.glob("*") if p.suffix.lower() in suffixes)
    if not files:
        raise SystemExit(str(UsageError(f"no photographs in {options.photographs}")))
    metrics, cells = [], []
    for images, distorted, cell in sample(files, options.cells, options.size, options.seed):
        metrics.append(fr_metrics(images, distorted))
        cells.append(cell)
        if len(cells) % 20 == 0:
            log.info("%d of %d photographs", len(cells), len(files))
    rows = torch.cat(metrics)
    document = {
        "photographs": len(files),
        "samples": len(rows),
        "size": options.size,
        "seed": options.seed,
        "goodness": table_of(rows),
    }
    options.out.write_text(json.dumps(document) + "\n")
    if options.raw:
        np.savez(options.raw, cells=np.concatenate(cells), metrics=rows.numpy())


if __name__ == "__main__":
    main()
