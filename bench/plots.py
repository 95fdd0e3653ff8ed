"""Pictures for reports: bars with intervals, and lines or points on logarithmic axes, by matplotlib."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metaqap_fast.bench.stats import Interval, digits

if TYPE_CHECKING:  # a timed process must not import it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "os^Dv"
Picture = Callable[[], "Figure"]  # drawn only where it is shown


@dataclass(frozen=True, slots=True)
class Series:
    """Points (x, y) of one name, or a line through them; those of one `colour` belong together."""

    name: str
    points: Sequence[tuple[float, float]]
    line: bool = False
    colour: int = 0


def bars(title: str, values: Sequence[tuple[str, Interval]], limit: float | None = None) -> Figure:
    """A bar for each value with its interval as a whisker; `limit` is a dashed line."""
    figure, axes = _figure(title, 1.0 + 0.3 * len(values))
    places, intervals = range(len(values)), [interval for _, interval in values]
    axes.barh(places, [interval.value for interval in intervals], tick_label=[name for name, _ in values])
    axes.hlines(places, [interval.low for interval in intervals], [interval.high for interval in intervals], "black")
    for place, interval in zip(places, intervals, strict=True):
        axes.annotate(digits(interval.value), (interval.high, place), (5, 0), textcoords="offset points", va="center")
    if limit is not None:
        axes.axvline(limit, color="grey", linestyle="dashed")
    axes.margins(x=0.1)
    axes.invert_yaxis()
    return figure


def log_plot(title: str, x_name: str, y_name: str, series: Sequence[Series]) -> Figure:
    """Series on two logarithmic axes."""
    figure, axes = _figure(title, 4.5)
    drawn: Counter[int] = Counter()  # points of each colour
    for each in series:
        style = "-" if each.line else MARKERS[drawn[each.colour] % len(MARKERS)]
        drawn[each.colour] += not each.line
        axes.plot(*zip(*each.points, strict=True), style, color=f"C{each.colour}", label=each.name)
    ys = [y for each in series for _, y in each.points]
    low, high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))
    axes.set(xscale="log", yscale="log", xlabel=x_name, ylabel=y_name)
    axes.set_ylim(10.0**low, 10.0 ** max(high, low + 1))  # whole decades: what is flat looks flat
    axes.grid(color="lightgrey")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def svg(figure: Figure) -> str:
    """An SVG document, the same every time."""
    import matplotlib as mpl

    text = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "metaqap-fast"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _figure(title: str, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
