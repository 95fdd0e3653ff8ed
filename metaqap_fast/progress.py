"""How far a call is, for whoever asked to be told."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sized
from contextlib import closing
from dataclasses import dataclass

from metaqap_fast.errors import Status, UsageError, kind
from metaqap_fast.records import Row


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a call is: `done` images have a row, `failed` of them no score; `total` is None where it is not known."""

    done: int
    failed: int
    total: int | None


OnProgress = Callable[[Progress], object]


def reported(rows: Generator[Row], progress: OnProgress | None, images: object) -> Generator[Row]:
    """Rows on their way to a caller; `progress` is called before each one is given out."""
    if progress is None:
        return rows
    if not callable(progress):
        raise UsageError(f"progress is {kind(progress)}, not a function of a Progress")
    total = len(images) if isinstance(images, Sized) else None

    def counted() -> Generator[Row]:
        failed = 0
        with closing(rows):
            for done, row in enumerate(rows, 1):
                failed += row.status != Status.ok
                progress(Progress(done, failed, total))
                yield row

    return counted()
