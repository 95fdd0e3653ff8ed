"""A score file as one page: no network, under 5 MB for any number of rows."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.errors import MetaqapError, Status, UsageError
from metaqap_fast.review.images import Images
from metaqap_fast.review.select import rows_at
from metaqap_fast.review.survey import Survey
from metaqap_fast.review.thumbnails import thumbnails
from metaqap_fast.scores.committed import check_finished
from metaqap_fast.scores.durable import replacing
from metaqap_fast.scores.hdf5 import open_scores, read_attributes
from metaqap_fast.scores.merge import chunks
from metaqap_fast.scores.probe import try_out
from metaqap_fast.scores.schema import escaped
from metaqap_fast.scores.table import ScoreTable

PAGES = (".html", ".htm")  # what its name ends in
SHEET = 24  # images of a contact sheet
ROWS = 2000  # of the table
PICTURES = 2_500_000  # letters of all thumbnails
LETTERS = 1_000_000  # of the table's paths, links and errors: beyond them it has fewer rows
KINDS, ERROR = 50, 200  # of failures that are shown, and letters of an error
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
CUT = 5  # percent: the images about this percentile are the borderline of the worst
MADE = ("bundle", "engine", "precision", "device", "preprocessing", "decoder", "program_version", "source")


@dataclass(slots=True)
class Shown:
    """An image of the page. `picture` is a data URL; where it is empty, `why` says why there is none."""

    path: str
    link: str
    why: str
    status: str
    score: float
    uncertainty: float
    width: int
    height: int
    reason: str = ""
    error: str = ""
    picture: str = ""

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    @property
    def hint(self) -> str:
        """Its path, of a length that can be shown."""
        return _short(self.path)


def report(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    root: str | None = None,
    pictures: bool = True,
    overwrite: bool = False,
) -> int:
    """Write the page; returns the number of images that it should show and cannot.

    Args:
        path: of the score file.
        output: the page, whose name ends in .html or .htm, made whole or not at all.
        root: folder that the images are in now; None for the one that the file names.
        pictures: whether it has thumbnails.
        overwrite: replace an existing page.

    Raises:
        UsageError: no such file, an existing page, or a name with another ending.
        MetaqapError: the file is damaged, the page cannot be written, or Jinja2 is missing.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise MetaqapError("jinja2 is missing: pip install 'metaqap-fast[review]'") from None
    check_page_name(output)
    if os.path.lexists(output) and not overwrite:
        raise UsageError(f"{os.fspath(output)} exists; give --overwrite or another -o")
    check_finished(path)
    try_out(path)
    with open_scores(path) as file:
        attributes = read_attributes(file)
    images = Images(attributes, root) if root is not None or "root" in attributes else None
    survey = Survey.of(chunks(path))
    sheets = _sheets(survey)
    listed = _listed(survey, sheets)
    table = rows_at(lambda: chunks(path), listed) if len(listed) else None
    shown = dict(zip(listed.tolist(), _shown(table, images, os.path.dirname(os.path.abspath(output))), strict=True))
    missing = 0
    if pictures and images is not None and table is not None:
        wanted = sorted({place for _, _, places in sheets for place in places.tolist()})
        missing = _add_pictures([(table.keys[int(np.flatnonzero(listed == p)[0])], shown[p]) for p in wanted], images)
    environment = Environment(
        loader=PackageLoader("metaqap_fast.review", "page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    page = environment.get_template("report.html.j2").render(
        name=escaped(os.fspath(path)),
        made={name: _text(attributes[name]) for name in MADE if name in attributes},
        survey=survey,
        statuses={s.name: int((survey.status == s).sum()) for s in Status if (survey.status == s).any()},
        percentiles=dict(zip(PERCENTILES, survey.percentiles(PERCENTILES), strict=True)),
        histogram=_histogram(survey.score),
        failures=_failures(survey),
        sheets=[(title, text, [shown[p] for p in places.tolist()]) for title, text, places in sheets],
        rows=_fitting([shown[place] for place in listed.tolist()]),
        pictures=pictures,
    )
    with replacing(output) as partial:
        partial.write_text(page, "utf-8", errors="backslashreplace")
    return missing


def _sheets(survey: Survey) -> list[tuple[str, str, NDArray[np.int64]]]:
    """Title, explanation and row numbers of each contact sheet."""
    rows = np.flatnonzero(np.isfinite(survey.score))
    if not len(rows):
        return []
    score, doubt = survey.score[rows], survey.uncertainty[rows]
    (cut,) = survey.percentiles([CUT])
    half, few = max(1, min(SHEET, len(rows) // 2)), max(1, min(SHEET, len(rows) // 4))  # no image is worst and best
    about, unsure = (rows[np.argsort(keys, kind="stable")[:few]] for keys in (np.abs(score - cut), -doubt))
    worst, best = (rows[np.argsort(keys, kind="stable")[:half]] for keys in (score, -score))
    return [
        ("Worst", "The lowest scores.", worst),
        ("Best", "The highest scores.", best),
        (
            "Borderline",
            f"Near {cut:.3f}, under which {CUT} % of the scores are: where a cut of the worst {CUT} % would fall.",
            about[np.argsort(survey.score[about], kind="stable")],
        ),
        (
            "Most uncertain",
            "The largest uncertainties. They are often those of middling scores, where people disagree most.",
            unsure,
        ),
    ]


def _listed(survey: Survey, sheets: Sequence[tuple[str, str, NDArray[np.int64]]]) -> NDArray[np.int64]:
    """Numbers of the rows of the table: all, or those of the sheets, the worst, some that failed, and some others."""
    count = len(survey.status)
    if count <= ROWS:
        return np.arange(count)
    failed = np.flatnonzero(~np.isfinite(survey.score))[: ROWS // 8]
    worst = np.argsort(survey.score, kind="stable")[: ROWS // 2]  # NaN at the end
    chosen = np.unique(np.concatenate([failed, worst, *(places for _, _, places in sheets)]))
    rest = np.setdiff1d(np.arange(count), chosen, assume_unique=True)
    spread = rest[np.linspace(0, len(rest) - 1, max(0, ROWS - len(chosen))).astype(int)]
    return np.union1d(chosen, spread)


def _shown(table: ScoreTable | None, images: Images | None, folder: str) -> Iterator[Shown]:
    if table is None:
        return
    for row in table:
        place = images.place(row.key) if images else None
        yield Shown(
            escaped(row.key),
            _link(place.path, folder) if place and not place.why else "",
            place.why if place else "not known which folder it is in",
            row.status.name,
            row.score,
            row.uncertainty,
            row.width,
            row.height,
            row.reason,
            _short(escaped(row.error)),
        )


def _fitting(rows: list[Shown]) -> list[Shown]:
    """As many of them as the table has room for, evenly."""
    letters = sum(len(html.escape(row.path + row.error)) + len(row.link) for row in rows)
    return rows[:: math.ceil(letters / LETTERS) or 1]


def _failures(survey: Survey) -> list[tuple[str, str, int, list[tuple[str, str]]]]:
    """Status, what went wrong, how many, and the first paths and errors, of the kinds that are the most frequent."""
    return [
        (status, what, count, [(_short(path), _short(error)) for path, error in survey.examples[status, what]])
        for (status, what), count in survey.failures.most_common(KINDS)
    ]


def _short(text: str) -> str:
    return text if len(text) <= ERROR else f"{text[: ERROR - 1]}…"


def _link(path: bytes, folder: str) -> str:
    return quote_from_bytes(os.path.relpath(path, os.fsencode(folder)))


def _add_pictures(wanted: list[tuple[bytes, Shown]], images: Images) -> int:
    by_key = dict(wanted)
    letters = 0
    for key, picture in thumbnails(images.entries(by_key)):
        letters += len(picture)
        if letters > PICTURES:
            break
        by_key[key].picture, by_key[key].why = picture, ""
    for shown in by_key.values():
        if not shown.picture and not shown.why:
            shown.why = "cannot be decoded now"
    return sum(not shown.picture for shown in by_key.values())


def _histogram(scores: NDArray[np.float32], bins: int = 50) -> list[tuple[float, float, int, float]]:
    """Low and high end of each bar, its count, and its height, 0 to 1."""
    counts, edges = np.histogram(scores[np.isfinite(scores)], bins, (0, 1))
    most = max(1, int(counts.max()))
    return [(low, high, int(n), int(n) / most) for low, high, n in zip(edges, edges[1:], counts, strict=False)]


def _text(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    return ", ".join(map(str, values[:5])) + (f" and {len(values) - 5} more" if len(values) > 5 else "")


def check_page_name(path: str | os.PathLike[str]) -> None:
    """A page never takes the place of what it is about: a score file, a run, an image.

    Raises:
        UsageError: the name has another ending.
    """
    if Path(path).suffix.lower() not in PAGES:
        raise UsageError(f"{os.fspath(path)}: the name of a page must end in {' or '.join(PAGES)}")


def default_name(path: str | os.PathLike[str]) -> str:
    """What a page is called: as its score file, beside it."""
    return os.fspath(Path(path).with_suffix(".html"))
