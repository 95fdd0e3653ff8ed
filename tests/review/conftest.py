from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from metaqap_fast.records import Row
from metaqap_fast.scores.table import ScoreTable
from rows import ATTRIBUTES, a_row

Scored = Callable[..., Path]


@pytest.fixture(autouse=True)
def _not_tried_out(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that a test has just made are not read in another process first, which takes half a second each time."""
    if "damaged" not in request.node.name:
        for name in ("chosen", "report", "compare"):
            monkeypatch.setattr(f"metaqap_fast.review.{name}.try_out", lambda path: None)


@pytest.fixture
def scored(tmp_path: Path) -> Scored:
    """A score file of images in `photos` with these scores; the images are there, with their names in them."""

    def make(scores: Mapping[str, float], name: str = "scores.h5", more: list[Row] | None = None, **about: Any) -> Path:
        photos = tmp_path / "photos"
        rows = [*(more or []), *(a_row(key.encode(), score) for key, score in scores.items())]
        for row in rows:
            path = photos / row.key.decode()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(row.key.decode())
        rows.sort(key=lambda row: row.key.replace(b"/", b"\0"))
        ScoreTable.from_rows(rows, {**ATTRIBUTES, "root": f"file://{photos}", **about}).save(tmp_path / name)
        return tmp_path / name

    return make
