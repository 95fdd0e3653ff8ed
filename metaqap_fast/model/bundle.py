"""The model on disk: a folder with `bundle.json`, one ONNX file per member, and the model card.

Everything in a bundle is data: JSON and ONNX, checked against digests when loaded, nothing unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.model.meta import MetaLearner
from metaqap_fast.options import MODEL

FORMAT = "metaqap-bundle"
FORMAT_VERSION = 2
READABLE = (1, 2)  # in version 1 members have no outputs beside their prediction
MODELS = Path(__file__).parent  # the bundles that ship in the package, by name


class BundleError(MetaqapError):
    """A folder that is not a bundle, a damaged or tampered bundle, or one of a newer format."""


@dataclass(frozen=True, slots=True)
class Member:
    """One base network: `file` takes [N, S, S, 3] uint8 RGB and gives [N, 1 + R] float32.

    The first column is on the MOS scale. `outputs` names the R others, severities of reasons for a low score: 0 or less
    where there is none, 1 where it could not be worse. `ranges` are activation ranges (tensor name -> low, high)
    measured on photographs, from which an engine makes its INT8 network; empty where the member has none.
    """

    name: str
    file: Path
    ranges: dict[str, tuple[float, float]]
    outputs: tuple[str, ...] = ()

    @property
    def columns(self) -> int:
        """1 + R."""
        return 1 + len(self.outputs)


@dataclass(frozen=True, slots=True)
class Layout:
    """Which of an engine's columns are the members' predictions, and which severities of reasons."""

    scores: tuple[int, ...]
    reasons: tuple[int, ...] = ()

    @property
    def columns(self) -> int:
        """Of an engine's rows."""
        return len(self.scores) + len(self.reasons)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A checked model bundle.

    `view_size` is the side S of the members' input in pixels; `document` the whole `bundle.json`;
    `digest` the sha256 of `bundle.json`, which holds the digests of all other files: compiled models are kept under
    it. It is empty where a bundle is made of another's members in memory.
    """

    name: str
    path: Path
    members: tuple[Member, ...]
    meta: MetaLearner
    view_size: int
    digest: str
    document: dict[str, Any]

    @property
    def layout(self) -> Layout:
        """What the columns are that an engine gives: those of the members, side by side."""
        places = list(accumulate((member.columns for member in self.members), initial=0))
        scores = tuple(places[:-1])
        return Layout(scores, tuple(place for place in range(places[-1]) if place not in scores))

    @property
    def reasons(self) -> tuple[str, ...]:
        """Names of all members' outputs, in the order of `layout.reasons`."""
        return tuple(name for member in self.members for name in member.outputs)


def available() -> list[str]:
    """Names of the bundles that ship with the package."""
    return sorted(path.parent.name for path in MODELS.glob("*/bundle.json"))


def load(model: str | os.PathLike[str] = MODEL) -> Bundle:
    """Load a shipped bundle by name, or any by its folder.

    Raises:
        UsageError: no such name or folder.
        BundleError: not a bundle, damaged, tampered, or of a newer format.
    """
    path = Path(model) if isinstance(model, (str, os.PathLike)) else Path()
    if path.name == os.fspath(path) and not path.is_dir():
        path = MODELS / path
    if not path.is_dir() or not path.name:
        raise UsageError(f"unknown model {model!r}: give one of {', '.join(available())} or a bundle's folder")
    try:
        text = (path / "bundle.json").read_bytes()
        document = json.loads(text)
    except OSError as error:
        raise BundleError(f"{path} is not a model bundle: bundle.json: {error.strerror}") from None
    except ValueError as error:
        raise BundleError(f"{path}/bundle.json is not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BundleError(f"{path}/bundle.json is not a {FORMAT} file")
    version = document.get("format_version")
    if version not in READABLE:
        raise BundleError(
            f"{path} has bundle format {version}; this program reads up to {FORMAT_VERSION}: a newer one may read it"
        )
    try:
        return _parse(path, document, hashlib.sha256(text).hexdigest())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{path}/bundle.json is damaged: {type(error).__name__}: {error}") from None


def _parse(path: Path, document: dict[str, Any], digest: str) -> Bundle:
    for name, expected in document["files"].items():
        _check(path, name, expected)
    for entry in document["members"]:
        for name in (entry["file"], entry.get("ranges", entry["file"])):
            if name not in document["files"]:
                raise BundleError(f"{path}: {name} has no digest in bundle.json")
    members = tuple(
        Member(
            str(entry["name"]),
            path / entry["file"],
            _ranges(path / entry["ranges"]) if "ranges" in entry else {},
            tuple(str(name) for name in entry.get("outputs", ())),
        )
        for entry in document["members"]
    )
    entry = document["meta_learner"]
    meta = MetaLearner(
        tuple(float(weight) for weight in entry["weights"]),
        float(entry["intercept"]),
        _points(entry["variance_floor"]),
        float(entry["variance_slope"]),
        _points(entry["small_variance"]) if "small_variance" in entry else (),
    )
    size = int(document["view_size"])
    floor = [value for point in meta.variance_floor for value in point]
    numbers = [*meta.weights, meta.intercept, *floor, meta.variance_slope]
    if not all(map(math.isfinite, numbers)) or min([*floor[1::2], meta.variance_slope]) < 0:
        raise ValueError("meta_learner holds a value out of range")
    if floor[::2] != sorted(set(floor[::2])):
        raise ValueError("meta_learner: the points of variance_floor do not ascend")
    sides, variances = [point[0] for point in meta.small_variance], [point[1] for point in meta.small_variance]
    if not all(map(math.isfinite, [*sides, *variances])) or sides != sorted(set(sides)) or min(sides, default=1) < 1:
        raise ValueError("meta_learner: the sizes of small_variance do not ascend")
    if variances != sorted(variances, reverse=True) or variances[-1:] not in ([], [0.0]):
        raise ValueError("meta_learner: small_variance does not fall to 0")
    if not members or len(meta.weights) != len(members) or not any(meta.weights):
        raise ValueError(f"{len(meta.weights)} weights for {len(members)} members")
    named = [name for member in members for name in member.outputs]
    if len(set(named)) < len(named) or not all(named):
        raise ValueError("two outputs of one name, or one without a name")
    if not 32 <= size <= 4096:
        raise ValueError(f"view_size {size}")
    return Bundle(str(document["name"]), path, members, meta, size, digest, document)


def _points(entry: Any) -> tuple[tuple[float, float], ...]:
    """A variance for every score, or points (score, variance) of one that depends on it."""
    if isinstance(entry, (int, float)):
        return ((0.0, float(entry)),)
    points = tuple((float(score), float(variance)) for score, variance in entry)
    if not points:
        raise ValueError("meta_learner: an empty list of points")
    return points


def _ranges(path: Path) -> dict[str, tuple[float, float]]:
    return {str(name): (float(low), float(high)) for name, (low, high) in json.loads(path.read_bytes()).items()}


def _check(path: Path, name: str, expected: str) -> None:
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise BundleError(f"{path}: file name {name!r} in bundle.json leaves the bundle")
    try:
        with open(path / name, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{path}: {name}: {error.strerror}") from None
    if found != expected:
        raise BundleError(f"{path}: {name} is not the file that bundle.json describes (sha256 differs)")
