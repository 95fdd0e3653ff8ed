"""Large photographs that are scaled and coded at their own size, and how much of each that leaves.

Other damage is done to 512 pixels, which is all that the members see. A photograph of 2,000 lines is another matter:
most of what a codec or a smaller size costs it is out of sight there, and what is left is not what the same codec does
to 512 pixels. The copies of one photograph are told apart by full-reference metrics (`labels`), at its own size and at
half of it; their rank among KADID's distortions is tied to what people said of those.
"""

from __future__ import annotations

import io
import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Resampling
from torch import Tensor

from metaqap_fast.decode import DecodeOptions, create
from metaqap_fast.errors import UsageError
from metaqap_fast.evaluation import srocc
from metaqap_fast.streams import counted
from metaqap_fast.train import rungs
from metaqap_fast.train.damage import BEST
from metaqap_fast.train.hidden import Lessons, Photographs
from metaqap_fast.train.labels import fr_metrics, quality_target
from metaqap_fast.train.rungs import digest
from metaqap_fast.train.seen import Eyes, Pooled, keep, read_kept

log = logging.getLogger(__name__)

T = TypeVar("T")
F64 = NDArray[np.float64]
Array = NDArray[np.uint8]

SIDE, LEAST = 2160, 1400  # lines that a photograph is scaled down to, and must have at least
LINES = (1440, 1080, 864, 720, 592, 480, 360, 240, 180, 144)
BACK = (Resampling.BICUBIC, Resampling.LANCZOS, Resampling.BILINEAR)
QUALITIES = {
    "AVIF": (5, 12, 20, 28, 36, 45, 55, 65),
    "JPEG": (5, 10, 18, 30, 45, 60, 75, 88),
    "WEBP": (2, 8, 16, 30, 45, 60, 75, 88),
}
CODECS = ("AVIF", "AVIF", "JPEG", "WEBP")  # a still of today's video codecs is as likely as both others
SCALED, CODED, PAIRS = 4, 3, 2  # copies of a photograph; both of a pair are coded alike
CROPS, CROP = 3, 384  # that metrics are measured on, and their side
CLEAR = 0.02  # share of the better copy's target, by which it must be above the next
SEED = 2160


@dataclass(frozen=True, slots=True)
class Copy:
    """What is done to a photograph: scaled to `lines` and back, coded in between.

    Attributes:
        lines: 0 for its own.
        back: how it is enlarged.
        codec: of Pillow; none if empty.
        quality: of the codec's own scale.
        ladder: copies with the same number above 0 become worse one by one.
    """

    lines: int = 0
    back: Resampling = Resampling.BICUBIC
    codec: str = ""
    quality: int = 0
    ladder: int = 0


@dataclass(frozen=True, slots=True)
class Large:
    """What members see in copies [n], each photograph's together and itself first.

    Attributes:
        pooled: of each member, raw taps [n, D].
        fine: the same in their fine views, see `metaqap_fast.decode.views`.
        target: [n] 1 for a photograph itself, see `labels.quality_target`.
        photograph: [n] which.
        ladder: [n] see `Copy`.
        lines: that fine views are cut from.
    """

    pooled: list[Pooled]
    fine: list[Pooled]
    target: F64
    photograph: NDArray[np.int64]
    ladder: NDArray[np.int64]
    lines: int = 0


def plan(lines: int, rng: np.random.Generator) -> list[Copy]:
    """The copies of a photograph of so many lines, itself first."""
    fewer = [each for each in LINES if each < 0.85 * lines]
    back = BACK[rng.integers(len(BACK))]
    codec = str(rng.choice(CODECS))
    scaled = sorted(rng.choice(fewer, min(SCALED, len(fewer)), replace=False).tolist(), reverse=True)
    coded = sorted(rng.choice(QUALITIES[codec], CODED, replace=False).tolist(), reverse=True)
    copies = [Copy(), *(Copy(each, back, ladder=1) for each in scaled)]
    copies += [Copy(0, back, codec, each, ladder=2) for each in coded]
    for ladder in range(3, 3 + PAIRS):
        codec, back = str(rng.choice(CODECS)), BACK[rng.integers(len(BACK))]
        quality = int(rng.choice(QUALITIES[codec]))
        pair = sorted(rng.choice(fewer, 2, replace=False).tolist(), reverse=True)
        copies += [Copy(each, back, codec, quality, ladder) for each in pair]
    return copies


def made(photograph: Image.Image, copy: Copy) -> Image.Image:
    """A photograph after what `copy` says, as large as before."""
    size = photograph.size
    image = photograph.resize((copy.lines, copy.lines), Resampling.BOX) if copy.lines else photograph
    if copy.codec:
        coded = io.BytesIO()
        image.save(coded, copy.codec, quality=copy.quality, **({"speed": 9} if copy.codec == "AVIF" else {}))
        image = Image.open(coded).convert("RGB")
    return image if image.size == size else image.resize(size, copy.back)


def middle(path: Path, least: int) -> Image.Image | None:
    """The square in the middle of a photograph, of SIDE lines at most; None if it has fewer than `least`."""
    with Image.open(path) as opened:
        if min(opened.size) < least:
            return None
        image = opened.convert("RGB")
    side, (left, top) = min(image.size), ((length - min(image.size)) // 2 for length in image.size)
    square = image.crop((left, top, left + side, top + side))
    side = min(SIDE, side // 2 * 2)  # coded colour has half the lines
    return square.resize((side, side), Resampling.LANCZOS)


class Judge:
    """How much of a photograph its copies have left: the metrics of crops, at its own size and at half of it."""

    def __init__(self, photograph: Image.Image, rng: np.random.Generator) -> None:
        self._sides = (photograph.width, photograph.width // 2)
        self._places = [rng.integers(0, side - CROP, (CROPS, 2)).tolist() for side in self._sides]
        self._original = self._crops(photograph)

    def __call__(self, copy: Image.Image) -> float:
        """The target, 1 for the photograph itself."""
        metrics = fr_metrics(self._original, self._crops(copy), fast=True)
        return float(quality_target(metrics, fast=True).mean())

    def _crops(self, image: Image.Image) -> Tensor:
        crops = []
        for side, places in zip(self._sides, self._places, strict=True):
            pixels = np.asarray(image if image.width == side else image.resize((side, side), Resampling.BOX))
            crops += [pixels[y : y + CROP, x : x + CROP] for y, x in places]
        return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255


def files_of(folder: Path, part: str) -> list[Path]:
    """Photographs of a part, see `rungs.PARTS`, in an order that says nothing of them: that of their digests.

    Raises:
        UsageError: none.
    """
    return sorted({digest(path): path for path in rungs.photographs(folder, part)}.values(), key=digest)


def see(eyes: Eyes, files: Sequence[Path], folder: Path, size: int, lines: int, threads: int = 2) -> Large:
    """What members see in the copies of photographs; kept in `folder`, one file for each photograph.

    Args:
        eyes: the members.
        files: photographs; those with fewer than LEAST lines, or too few for a fine view, are left out.
        folder: of the cache; another bundle, or other `lines`, need another.
        size: side of a view in pixels.
        lines: that fine views are cut from.
        threads: that make copies.

    Raises:
        UsageError: all have too few lines.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {path: folder / f"{digest(path).hex()[:16]}.npz" for path in files}
    missing = [path for path, stored in wanted.items() if not stored.exists()]
    least = max(LEAST, lines)  # so that all have a fine view
    decoder = create(DecodeOptions(size, fine=lines))
    for number, (path, copies) in enumerate(_ahead(partial(_copies, least=least), missing, threads), 1):
        if copies is not None:
            views, targets, ladders = copies
            images = decoder.stream_arrays((b"", view) for view in views)
            seen = list(eyes.look(view for image in images for view in (image.views[0], image.views[-1])))
            members = [np.stack(member) for rows in (seen[::2], seen[1::2]) for member in zip(*rows, strict=True)]
            keep(wanted[path], [targets, ladders, *members])
        if number % 10 == 0:
            log.info("large photographs: %d of %d", number, len(missing))
    decoder.close()
    stored = [read_kept(file) for file in wanted.values() if file.exists()]
    if not stored:
        raise UsageError(f"none of {counted(len(files), 'photograph')} has {least} lines")
    targets, ladders, *pooled = (np.concatenate(arrays) for arrays in zip(*stored, strict=True))
    half = len(pooled) // 2
    return Large(
        pooled[:half],
        pooled[half:],
        targets,
        np.repeat(np.arange(len(stored)), [len(each[0]) for each in stored]),
        ladders,
        lines,
    )


def name() -> str:
    """Of a cache: another one where other copies are made."""
    made_of = (SIDE, LINES, BACK, QUALITIES, CODECS, SCALED, CODED, PAIRS, CROPS, CROP, SEED)
    return f"large-{rungs.name_of((), made_of)}"


def seed_of(path: Path) -> tuple[int, int]:
    """Of a photograph's copies."""
    return SEED, int.from_bytes(digest(path)[:4])


def lessons(large: Large, x: Tensor, score: F64, kept: F64, reasons: int) -> Lessons:
    """What copies [n] teach of the score; of reasons they say nothing.

    Args:
        large: the copies.
        x: [n, K] coordinates of what members see.
        score: [n] as it is.
        kept: [n] share of the original's score that is to be left.
        reasons: R.
    """
    original, milder = np.empty(len(score), np.int64), np.full(len(score), -1)
    contents = [np.flatnonzero(large.photograph == place) for place in np.unique(large.photograph)]
    for rows in contents:
        original[rows] = rows[0]
        for ladder in set(large.ladder[rows].tolist()) - {0}:
            rung = rows[large.ladder[rows] == ladder]
            milder[rung] = [rows[0], *rung[:-1]]
    milder[(milder >= 0) & (large.target > (1 - CLEAR) * large.target[milder])] = -1
    nothing = np.full(len(score), -1)
    now, left = (torch.tensor(values, dtype=torch.float32) for values in (score, kept))
    severity = torch.full((len(score), reasons), math.nan)
    return Lessons(x, now, left, severity, original, milder, nothing, np.zeros(len(score), bool), contents)


def share_kept(target: F64, cells: F64, kept: Callable[[float], float]) -> F64:
    """The share of a photograph's own score that copies keep, by their targets [n].

    A target is a rank among KADID's distortions, so it costs what people say that the distortion of that rank costs:
    `cells` are their mean opinions [25, 5], of which `kept` makes shares, as a `Link` does.
    """
    said = np.minimum(np.quantile(cells, target.clip(0, 1)), BEST)
    return np.where(target >= 1, 1.0, [kept(float(each)) for each in said])


def photographs(large: Large, x: Tensor, score: F64) -> Photographs:
    """The photographs themselves, as labelled ones: nothing is known of them but that they are undamaged, so that each
    is to score what they do in the mean."""
    rows = np.unique(large.photograph, return_index=True)[1]
    now = torch.tensor(score[rows], dtype=torch.float32)
    return Photographs(x[rows], now, now.mean().expand(len(rows)), torch.ones(len(rows), dtype=torch.bool))


def agreement(large: Large, score: F64) -> dict[str, float]:
    """SROCC of scores [n] with the targets: over the copies of each photograph, in the mean, and over all; and the mean
    score of the photographs themselves."""
    contents = [np.flatnonzero(large.photograph == place) for place in np.unique(large.photograph)]
    return {
        "within each photograph": float(np.mean([srocc(score[rows], large.target[rows]) for rows in contents])),
        "over all": srocc(score, large.target),
        "mean score of undamaged ones": float(np.mean([score[rows[0]] for rows in contents])),
    }


def _copies(path: Path, least: int) -> tuple[list[Array], F64, NDArray[np.int64]] | None:
    """The copies of a photograph, their targets and their ladders."""
    photograph = middle(path, least)
    if photograph is None:
        return None
    rng = np.random.default_rng(seed_of(path))
    copies, judge = plan(photograph.width, rng), Judge(photograph, rng)
    images = [made(photograph, copy) for copy in copies]
    targets = [1.0, *(judge(image) for image in images[1:])]
    return [np.asarray(image) for image in images], np.array(targets), np.array([copy.ladder for copy in copies])


def _ahead(function: Callable[[Path], T], paths: Sequence[Path], threads: int) -> Iterator[tuple[Path, T]]:
    """Results in order; as many are ahead as there are threads, for each takes a hundred megabytes."""
    with ThreadPoolExecutor(threads) as pool:
        waiting = iter(paths)
        flying: deque[tuple[Path, Future[T]]] = deque((p, pool.submit(function, p)) for p in islice(waiting, threads))
        while flying:
            path, result = flying.popleft()
            yield path, result.result()
            flying += [(p, pool.submit(function, p)) for p in islice(waiting, 1)]
