"""Measures of quality that install in a minute, beside which the model has to be better.

    pip install 'brisque[opencv-python-headless]' pypiqe

BRISQUE is the package's (Apache-2.0), PIQE that of pypiqe (MIT). NIQE is left out: the packages that have it need an
old numpy, lack its parameters, or have terms that a user of this one may not meet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.bench.peer_works import load_rgb
from metaqap_fast.errors import UsageError

Pixels = NDArray[np.uint8]
Measure = Callable[[Pixels, int], float]  # pixels [H, W, 3] and the file's bytes -> higher is better


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
}
NAMES = {
    "brisque": "BRISQUE",
    "piqe": "PIQE",
    "laplacian": "Laplacian variance",
    "bytes": "bytes a pixel",
}
_PACKAGES = {"brisque": "'brisque[opencv-python-headless]'", "piqe": "pypiqe"}


def baselines(wanted: Sequence[str]) -> dict[str, Measure]:
    """Measures by name.

    Raises:
        UsageError: an unknown name, or a package that is not installed.
    """
    made = {}
    for name in wanted:
        if name not in _MAKERS:
            raise UsageError(f"unknown baseline {name!r}: one of {', '.join(_MAKERS)}")
        try:
            made[name] = _MAKERS[name]()
        except ImportError as error:
            raise UsageError(f"{NAMES[name]} is not installed: pip install {_PACKAGES[name]} ({error})") from None
    return made


def measured(file: Path, measures: dict[str, Measure]) -> dict[str, float]:
    """What each measure says of a file, NaN where it says nothing (a flat image has no texture)."""
    pixels = load_rgb(str(file).encode())
    found = {}
    for name, measure in measures.items():
        with np.errstate(all="ignore"):
            found[name] = measure(pixels, file.stat().st_size)
    return found
