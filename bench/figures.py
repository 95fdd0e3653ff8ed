"""From raw samples to figures: which repetitions count, and what is said where there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from metaqap_fast.bench.plots import Picture
from metaqap_fast.bench.runs import Run
from metaqap_fast.bench.stats import Interval, digits, interval, ratio


class NoFigure(Exception):
    """Why there is none, in a few words."""


@dataclass(slots=True)
class Section:
    """A table of a report, with its pictures."""

    title: str
    columns: list[str]
    rows: list[list[Any]]  # texts, numbers, `Interval`s
    note: str = ""
    pictures: Sequence[Picture] = ()


class Figures:
    """The samples of a run by case.

    A repetition that others disturbed does not count; a case with more than half of its repetitions disturbed has
    no figure at all.

    Args:
        run: the run.
        even_busy: count disturbed repetitions too, for looking into a run on a machine that is never idle.
    """

    def __init__(self, run: Run, even_busy: bool = False) -> None:
        self.run, self.even_busy = run, even_busy
        self.cases: dict[str, list[dict[str, Any]]] = {name: [] for name in run.settings.get("cases", [])}
        for sample in run.samples:
            self.cases.setdefault(sample["case"], []).append(sample)

    def labels(self) -> dict[str, dict[str, Any]]:
        """Labels by case."""
        return {name: samples[0]["labels"] for name, samples in self.cases.items() if samples}

    def good(self, case: str) -> list[dict[str, Any]]:
        """The samples that count.

        Raises:
            NoFigure: none, or too few.
        """
        samples = self.cases.get(case, [])
        done = [sample for sample in samples if "seconds" in sample]
        if not done:
            raise NoFigure(next((word for s in samples for word in ("skipped", "failed") if word in s), "not run"))
        quiet = done if self.even_busy else [sample for sample in done if not sample["busy"]]
        if 2 * len(quiet) < len(done):
            raise NoFigure(f"busy machine ({len(done) - len(quiet)} of {len(done)})")
        return quiet

    def rates(self, case: str) -> list[float]:
        """Units per second of each sample that counts."""
        return [sample["units"] / sample["seconds"] for sample in self.good(case)]

    def per_thousand(self, case: str, what: str) -> list[float]:
        """`cpu_seconds`, `joules`, ... of each sample for 1,000 units."""
        values = [(sample[what], sample["units"]) for sample in self.good(case)]
        if any(value is None for value, _ in values):
            raise NoFigure("no meter")
        return [1000 * value / units for value, units in values]

    def peak_mb(self, case: str) -> list[float]:
        """Peak memory of each sample."""
        return [sample["peak_mb"] for sample in self.good(case)]

    def facts(self, case: str) -> dict[str, Any]:
        """What the work said of itself, {} where it said nothing."""
        return next((sample["facts"] for sample in self.cases.get(case, []) if "facts" in sample), {})

    def disturbed(self) -> tuple[int, int]:
        """Repetitions during which others were busy, and all that were timed."""
        done = [sample for sample in self.run.samples if "seconds" in sample]
        return sum(sample["busy"] for sample in done), len(done)

    def failures(self) -> list[str]:
        """Every case that was skipped or failed, with the reason, once."""
        found = {
            f"{sample['case']}: {word}: {sample[word]}": None
            for sample in self.run.samples
            for word in ("skipped", "failed")
            if word in sample
        }
        return list(found)


def cell(make: Callable[..., Any], *arguments: Any) -> Any:
    """What `make` gives, or the reason why there is no figure."""
    try:
        return make(*arguments)
    except NoFigure as reason:
        return str(reason)


def median(values: Callable[..., Sequence[float]], *arguments: Any) -> Any:
    """Median of the values with its interval, or the reason."""
    return cell(lambda: interval(values(*arguments)))


def over(values: Callable[[str], Sequence[float]], above: str, below: str) -> Any:
    """Ratio of the medians of two cases with its interval, or the reason."""
    return cell(lambda: ratio(values(above), values(below)))


def show(value: Any) -> str:
    """A cell as text."""
    if isinstance(value, Interval):
        return str(value)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    return digits(value) if isinstance(value, float) else str(value)


def number(value: Any) -> Any:
    """A cell for JSON."""
    return value.as_dict() if isinstance(value, Interval) else value
