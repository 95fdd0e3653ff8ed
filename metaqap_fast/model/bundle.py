"""The model on disk: a folder with `bundle.json`, one ONNX file per member, and the model card.

Everything in a bundle is data: JSON and ONNX, checked against digests when loaded, nothing unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.model.meta import MetaLearner
from metaqap_fast.model.readout import NEVER, Fading, Readout
from metaqap_fast.options import MODEL

FORMAT = "metaqap-bundle"
FORMAT_VERSION = 3
READABLE = (1, 2, 3)  # in version 1 members give predictions alone; in 2 fine views tell of every picture
# Of a fine view, in view sizes, where a bundle does not say its lines; and the most lines that it may say.
FINER, MOST_LINES = 2, 8192
MODELS = Path(__file__).parent  # the bundles that ship in the package, by name


class BundleError(MetaqapError):
    """A folder that is not a bundle, a damaged or tampered bundle, or one of a newer format."""


@dataclass(frozen=True, slots=True)
class Member:
    """One base network: `file` takes [N, S, S, 3] uint8 RGB and gives [N, 1 + U] float32.

    The first column is on the MOS scale; the others are the member's shares of the hidden units, see `readout`.
    `ranges` are activation ranges (tensor name -> low, high) measured on photographs, from which an engine makes its
    INT8 network; empty where the member has none.
    """

    name: str
    file: Path
    ranges: dict[str, tuple[float, float]]
    units: int = 0

    @property
    def columns(self) -> int:
        """1 + U."""
        return 1 + self.units


@dataclass(frozen=True, slots=True)
class Hidden:
    """The last layer of the hidden units: `weights` [U, 1 + R], `bias` [1 + R], `steeper` [R], and of those that read
    fine views `fine_weights` [F], `fine_bias` and `fading`, see `readout`, and how many lines of a picture they see;
    and the names of its R severities."""

    reasons: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]
    steeper: tuple[float, ...]
    fine_weights: tuple[float, ...] = ()
    fine_bias: float = 0.0
    fading: Fading = NEVER
    fine_lines: int = 0


@dataclass(frozen=True, slots=True)
class Bundle:
    """A checked model bundle.

    `view_size` is the side S of the members' input in pixels; `document` the whole `bundle.json`;
    `digest` the sha256 of `bundle.json`, which holds the digests of all other files: compiled models are kept under
    it. It is empty where a bundle is made of another's members in memory. `hidden` is the last layer of the hidden
    units.
    """

    name: str
    path: Path
    members: tuple[Member, ...]
    meta: MetaLearner
    view_size: int
    digest: str
    document: dict[str, Any]
    hidden: Hidden | None = None

    @property
    def readout(self) -> Readout:
        """What becomes of the columns that an engine gives: those of the members, side by side."""
        first = list(accumulate((member.columns for member in self.members), initial=0))
        units = tuple(range(one + 1, next_one) for one, next_one in pairwise(first) if next_one > one + 1)
        scores = tuple(first[:-1])
        if self.hidden is None:
            return Readout(scores)
        last = self.hidden
        fine = last.fine_weights, last.fine_bias, last.fading
        return Readout(scores, units, last.weights, last.bias, last.steeper, *fine)

    @property
    def has_fine(self) -> bool:
        """Whether some units read fine views."""
        return self.hidden is not None and bool(self.hidden.fine_weights)

    @property
    def fine_lines(self) -> int:
        """Lines of a picture that its fine view is cut from; 0 if no units read fine views."""
        return self.hidden.fine_lines if self.hidden is not None and self.has_fine else 0

    @property
    def reasons(self) -> tuple[str, ...]:
        """Names of the severities that the units give."""
        return () if self.hidden is None else self.hidden.reasons


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
        raise BundleError(f"{path} is not a model, which has a bundle.json: {error.strerror}") from None
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
            int(entry.get("units", 0)),
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
        _points(entry["severity_variance"]) if "severity_variance" in entry else (),
        _points(entry["fine_variance"]) if "fine_variance" in entry else (),
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
    _rising("severity_variance", meta.severity_variance)
    _rising("fine_variance", meta.fine_variance)
    if not members or len(meta.weights) != len(members) or not any(meta.weights):
        raise ValueError(f"{len(meta.weights)} weights for {len(members)} members")
    if not 32 <= size <= 4096:
        raise ValueError(f"view_size {size}")
    hidden = _hidden(document.get("hidden"), {member.units for member in members}, size)
    return Bundle(str(document["name"]), path, members, meta, size, digest, document, hidden)


def _hidden(entry: Any, units: set[int], size: int) -> Hidden | None:
    """The last layer of the hidden units. `units`: how many each member gives; `size` of a view."""
    if entry is None:
        if units != {0}:
            raise ValueError("members give hidden units, and nothing says what becomes of them")
        return None
    fine = entry.get("fine", {"weights": [], "bias": 0.0})
    found = Hidden(
        tuple(str(name) for name in entry["reasons"]),
        tuple(tuple(float(value) for value in row) for row in entry["weights"]),
        tuple(float(value) for value in entry["bias"]),
        tuple(float(value) for value in entry["steeper"]),
        tuple(float(value) for value in fine["weights"]),
        float(fine["bias"]),
        _fading(fine["fading"]) if "fading" in fine else NEVER,
        int(fine.get("lines", FINER * size)),
    )
    count, weights = len(found.reasons), len(found.weights) + len(found.fine_weights)
    if units - {0} != {weights} or not found.weights:
        raise ValueError(f"hidden: {weights} rows of weights for {sorted(units)} units")
    if {len(row) for row in (*found.weights, found.bias)} != {1 + count} or len(found.steeper) != count:
        raise ValueError("hidden: a column for the score and one for each reason are needed")
    rows = (*found.weights, found.bias, found.steeper, found.fine_weights, (found.fine_bias,))
    if not all(math.isfinite(value) for row in rows for value in row):
        raise ValueError("hidden: a value that is no number")
    if not size <= found.fine_lines <= MOST_LINES:
        raise ValueError(f"hidden: a fine view of {found.fine_lines} lines; from {size} to {MOST_LINES} are possible")
    if min(found.steeper, default=0) < 0:
        raise ValueError("hidden: steeper is at least 0")
    if len(set(found.reasons)) < count or not all(found.reasons):
        raise ValueError("two reasons of one name, or one without a name")
    return found


def _points(entry: Any) -> tuple[tuple[float, float], ...]:
    """A variance for every score, or points (score, variance) of one that depends on it."""
    if isinstance(entry, (int, float)):
        return ((0.0, float(entry)),)
    points = tuple((float(score), float(variance)) for score, variance in entry)
    if not points:
        raise ValueError("meta_learner: an empty list of points")
    return points


def _rising(name: str, points: tuple[tuple[float, float], ...]) -> None:
    """Check points of a variance that is added."""
    places, variances = [point[0] for point in points], [point[1] for point in points]
    if not all(map(math.isfinite, [*places, *variances])) or places != sorted(set(places)):
        raise ValueError(f"meta_learner: the points of {name} do not ascend")
    if points[:1] not in ((), ((0.0, 0.0),)) or variances != sorted(variances):
        raise ValueError(f"meta_learner: {name} does not rise from 0 at 0")


def _fading(entry: Any) -> Fading:
    """Of what fine views tell."""
    poor, fair, lost = (float(entry[name]) for name in ("poor", "fair", "lost"))
    if not (all(map(math.isfinite, (poor, fair, lost))) and poor < fair and lost >= 0):
        raise ValueError("hidden: fading needs poor below fair, and a loss of at least 0")
    return poor, fair, lost


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
