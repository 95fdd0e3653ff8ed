"""Other measures of quality, beside which the model has to be better.

    pip install 'brisque[opencv-python-headless]' pypiqe cleanvision pyiqa

`brisque` and `piqe` are those of the packages brisque (Apache-2.0) and pypiqe (MIT), `cleanvision` is the blurry score
of CleanVision (Apache-2.0). `pyiqa:NAME` is any measure of IQA-PyTorch that needs no reference, `pyiqa:niqe` for
example. IQA-PyTorch is for noncommercial use (PolyForm), and downloads the weights of most measures (CC BY-NC-SA 4.0)
when they are first used: whoever installs it accepts these terms.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.bench.images import load_rgb
from metaqap_fast.errors import UsageError

Pixels = NDArray[np.uint8]
Measure = Callable[[Pixels, int], float]  # pixels [H, W, 3] and the file's bytes -> higher is better
PYIQA = "pyiqa:"


class NoWeights(UsageError):
    """A measure's weights cannot be downloaded."""


def _brisque() -> Measure:
    from brisque import BRISQUE

    judge = BRISQUE(url=False)
    scale = judge.scale_features
    # scipy's solver gives arrays of one number, which numpy 2.4 no longer takes for numbers.
    judge.scale_features = lambda features: scale([float(np.ravel(value)[0]) for value in features])
    return lambda pixels, _: -float(judge.score(pixels))


def _piqe() -> Measure:
    from pypiqe import piqe

    return lambda pixels, _: -float(piqe(pixels)[0])


def cleanvision(issue: str) -> Measure:
    """CleanVision's score of an issue (blurry, dark or light), 1 where there is none.

    Raises:
        ImportError: it is not installed.
    """
    import pandas as pd
    from cleanvision.issue_managers.image_property_issue_manager import ImagePropertyIssueManager
    from PIL import Image

    manager = ImagePropertyIssueManager()  # with the factors of `Imagelab`, which are not the defaults of its parts
    judge, parameters = manager.image_properties[issue], manager.params[issue]

    def score(pixels: Pixels, _: int) -> float:
        raw = pd.DataFrame([judge.calculate(Image.fromarray(pixels))])
        return float(judge.get_scores(raw_scores=raw, issue_type=issue, **parameters)[f"{issue}_score"].iloc[0])

    return score


def pyiqa(name: str, **options: Any) -> Measure:
    """A measure of IQA-PyTorch on all CPUs of this process; `options` are those of its network.

    Raises:
        ImportError: it is not installed.
        NoWeights: they are not there and cannot be downloaded.
        UsageError: it has no such measure, or one that needs a reference.
    """
    import torch
    from pyiqa import create_metric
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    if DEFAULT_CONFIGS.get(name, {}).get("metric_mode") != "NR":
        raise UsageError(f"IQA-PyTorch has no measure {name!r} that needs no reference")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        metric = create_metric(name, device=torch.device("cpu"), **options)
    except (OSError, RuntimeError) as error:
        raise NoWeights(f"{PYIQA}{name}: its weights cannot be downloaded ({str(error).splitlines()[0]})") from None
    sign = -1 if metric.lower_better else 1

    @torch.no_grad()
    def score(pixels: Pixels, _: int) -> float:
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        return sign * float(metric(tensor))

    return score


def laplacian_variance(pixels: Pixels, _: int) -> float:
    """Variance of the Laplacian of the luma: the usual measure of focus."""
    gray: NDArray[np.float64] = pixels @ np.array([0.299, 0.587, 0.114])
    inner = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:] - 4 * gray[1:-1, 1:-1]
    return float(inner.var())


def bytes_per_pixel(pixels: Pixels, size: int) -> float:
    """Of the file: what a codec spent."""
    return size / float(pixels.shape[0] * pixels.shape[1])


_MAKERS: dict[str, Callable[[], Measure]] = {
    "brisque": _brisque,
    "piqe": _piqe,
    "laplacian": lambda: laplacian_variance,
    "bytes": lambda: bytes_per_pixel,
    "cleanvision": lambda: cleanvision("blurry"),
}
NAMES = {
    "brisque": "BRISQUE",
    "piqe": "PIQE",
    "laplacian": "Laplacian variance",
    "bytes": "bytes a pixel",
    "cleanvision": "CleanVision, blurry",
}
PACKAGES = {
    "brisque": "brisque[opencv-python-headless]",
    "piqe": "pypiqe",
    "cleanvision": "cleanvision",
    PYIQA: "pyiqa",
}


def title(name: str) -> str:
    """As tables call a measure."""
    return f"IQA-PyTorch, {name.removeprefix(PYIQA)}" if name.startswith(PYIQA) else NAMES[name]


def baselines(wanted: Sequence[str]) -> dict[str, Measure]:
    """Measures by name.

    Raises:
        UsageError: an unknown name, or a package that is not installed.
        NoWeights: see `pyiqa`.
    """
    made = {}
    for name in wanted:
        maker = partial(pyiqa, name.removeprefix(PYIQA)) if name.startswith(PYIQA) else _MAKERS.get(name)
        if maker is None:
            raise UsageError(f"unknown baseline {name!r}: one of {', '.join(_MAKERS)}, {PYIQA}NAME")
        try:
            made[name] = maker()
        except ImportError as error:
            package = PACKAGES[PYIQA if name.startswith(PYIQA) else name]
            raise UsageError(f"{title(name)} is not installed: pip install '{package}' ({error})") from None
    return made


def available(wanted: Sequence[str], say: Callable[[str], None]) -> dict[str, Measure]:
    """The same; those without weights are left out, and `say` is told.

    Raises:
        UsageError: as `baselines`.
    """
    made: dict[str, Measure] = {}
    for name in wanted:
        try:
            made |= baselines([name])
        except NoWeights as error:
            say(f"left out: {error}")
    return made


def measured(file: Path, measures: dict[str, Measure]) -> dict[str, float]:
    """What each measure says of a file, NaN where it says nothing (a flat image has no texture)."""
    pixels = load_rgb(str(file).encode())
    found = {}
    for name, measure in measures.items():
        with np.errstate(all="ignore"):
            found[name] = measure(pixels, file.stat().st_size)
    return found
