"""What has come of a run: counts for its progress, its summary and its exit status."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from metaqap_fast.errors import Status
from metaqap_fast.input import Source
from metaqap_fast.options import FINE, NOTHING_SCORED, TOO_MANY_FAILED, Some
from metaqap_fast.records import Entry, Past, Row
from metaqap_fast.scores.done import Done
from metaqap_fast.scores.totals import Totals

SEVERAL = 10  # images of a run; that none of fewer could be scored says little of the run
ABOUT = ("engine", "engine_version", "precision", "device", "preprocessing")  # of `Scorer.describe`, in a summary


@dataclass(slots=True)
class Summary:
    """What has come of a run so far; it counts from when it is made.

    Attributes:
        output: the score file.
        done: rows that were there already.
        passed: how many of those the source has named so far, and are not scored again.
        changed: how many are, because their file is another than it was.
        retried: how many are, because they had failed.
        gone: how many of those the source does not name, known at its end.
        pruned: whether the rows of those were removed.
        left_out: what the source left out, by kind.
        statuses: images that this run made a row for, by the name of their status.
        totals: all rows of the output, those of earlier runs too.
        seconds: until the latest row.
        about: what ran, see `Scorer.describe`.
    """

    output: str = ""
    done: int = 0
    passed: int = 0
    changed: int = 0
    retried: int = 0
    gone: int = 0
    pruned: bool = False
    left_out: dict[str, int] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    totals: Totals = field(default_factory=Totals)
    seconds: float = 0.0
    about: dict[str, Any] = field(default_factory=dict)
    _earlier: Totals = field(default_factory=Totals)
    _replaced: deque[Past] = field(default_factory=deque)
    _start: float = field(default_factory=lambda: time.monotonic())

    @property
    def images(self) -> int:
        """Images that this run made a row for."""
        return sum(self.statuses.values())

    @property
    def scored(self) -> int:
        """Those with a score."""
        return self.statuses[Status.ok.name]

    @property
    def failed(self) -> int:
        """Those without."""
        return self.images - self.scored

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def kept(self) -> int:
        """Rows that were there already and still are."""
        return self.done - self.changed - self.retried - (self.gone if self.pruned else 0)

    def resumed(self, done: Done, totals: Totals) -> None:
        """Count the rows that were there already."""
        self.done, self.totals, self._earlier = len(done), totals, totals

    def missing(self, entries: Iterable[Entry], done: Done, retry_failed: bool = False) -> Iterator[Entry]:
        """The entries that have no row yet, or one that is not good any more."""
        if not len(done):
            yield from entries
            return
        for entry in entries:
            need = done.need(entry.key, entry.stamp().code, retry_failed)
            if need is None:
                self.passed += 1
                continue
            if need != "new":
                self.changed += need == "changed"
                self.retried += need == "failed"
                self._replaced.append(done.past(entry.key))
            yield entry

    def take(self, row: Row) -> None:
        """Count a row."""
        self.seconds = time.monotonic() - self._start
        self.statuses[row.status.name] += 1
        while self._replaced and self._replaced[0].key == os.fsdecode(row.key):  # they come in the order of `missing`
            self._forget()
        self.totals.take(row)

    def told(self) -> dict[str, Any]:
        """What another process is told, see `join` and `add`."""
        return {"statuses": dict(self.statuses), "totals": self.totals.told()}

    def told_of_listing(self) -> dict[str, Any]:
        """What `missing` has found since this was last asked for, for `add`."""
        found = {
            "passed": self.passed,
            "changed": self.changed,
            "retried": self.retried,
            "replaced": list(self._replaced),
        }
        self.passed = self.changed = self.retried = 0
        self._replaced.clear()
        return found

    def add(self, told: Mapping[str, Any]) -> None:
        """Count what another process has made since it was last heard of."""
        self.seconds = time.monotonic() - self._start
        self.passed += told["passed"]
        self.changed += told["changed"]
        self.retried += told["retried"]
        self.statuses.update(told["statuses"])
        for past in told["replaced"]:
            self.totals.forget(Past(*past))
        self.totals = self.totals.plus([told["totals"]])

    def join(self, others: Iterable[Mapping[str, Any]]) -> None:
        """Count what the processes of a run have counted until now."""
        others = list(others)
        self.seconds = time.monotonic() - self._start
        self.statuses = sum((Counter(other["statuses"]) for other in others), Counter[str]())
        while self._replaced:
            self._forget()
        self.totals = self._earlier.plus(other["totals"] for other in others)

    def _forget(self) -> None:
        self._earlier.forget(self._replaced.popleft())

    def end(self, source: Source, done: Done) -> None:
        """Take over what is known once the source is exhausted."""
        self.left_out = dict(source.left_out)
        self.gone = int(len(done) - done.named.sum())

    def exit_status(self, max_failed: Some | None = None) -> int:
        """Of a run that came to its end: 5 if no image of the output could be scored, or none of several of this run, 3
        if more images of the output failed than may, otherwise 0. A bad image or two that are new are no failure."""
        if not self.totals.rows:  # a share without images
            return FINE
        if not self.totals.scored or (self.images >= SEVERAL and not self.scored):
            return NOTHING_SCORED
        if max_failed is not None and self.totals.failed > max_failed.of(self.totals.rows):
            return TOO_MANY_FAILED
        return FINE

    def as_dict(self) -> dict[str, Any]:
        """For `--json`. `images` are those that this run made a row for, `run` is what became of them; `rows`, and what
        is counted and shown of them, are all of the output's."""
        about = {name: self.about.get(name) for name in ABOUT}
        return {
            "output": self.output,
            **about,
            "model": self.about.get("bundle"),
            "model_digest": self.about.get("bundle_digest"),
            "images": self.images,
            "run": {"scored": self.scored, "failed": self.failed},
            **self.totals.as_dict(),
            "resumed_rows": self.done,
            "changed_rows": self.changed,
            "retried_rows": self.retried,
            "gone_rows": self.gone,
            "pruned": self.pruned,
            "left_out": self.left_out,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.rate, 2),
        }
