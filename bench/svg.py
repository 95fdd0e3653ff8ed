"""Pictures for reports, drawn by hand: bars with intervals, and lines or points on logarithmic axes.

Plain SVG without scripts or fonts of its own; every mark has a title that a browser shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from metaqap_fast.bench.stats import Interval, digits

WIDTH, ROW, LEFT, RIGHT = 800, 26, 290, 90
COLOURS = ("#2266aa", "#bb5522", "#338855", "#885599", "#997700", "#446677")


@dataclass(frozen=True, slots=True)
class Series:
    """Points (x, y) of one name, or a line through them; those of one `colour` belong together."""

    name: str
    points: Sequence[tuple[float, float]]
    line: bool = False
    colour: int = 0


def bars(title: str, values: Sequence[tuple[str, Interval]], limit: float | None = None) -> str:
    """A bar for each value with its interval as a whisker; `limit` is a dashed line."""
    top = max([interval.high for _, interval in values] + ([limit] if limit else []))
    scale = (WIDTH - LEFT - RIGHT) / (top or 1.0)
    height = 40 + ROW * len(values)
    parts = [_text(LEFT, 20, title, "start", True)]
    for i, (name, interval) in enumerate(values):
        y = 34 + ROW * i
        low, high = LEFT + scale * max(0.0, interval.low), LEFT + scale * interval.high
        parts += [
            _text(LEFT - 8, y + 13, name, "end"),
            f'<rect class="bar" x="{LEFT}" y="{y}" width="{max(0.0, scale * interval.value):.1f}" height="18" '
            f'fill="{COLOURS[0]}"><title>{escape(f"{name}: {interval}")}</title></rect>',
            _line(low, y + 9, high, y + 9, "#111"),
            _text(high + 6, y + 13, digits(interval.value)),
        ]
    if limit:
        parts.append(_line(LEFT + scale * limit, 30, LEFT + scale * limit, height - 8, "#888", dashed=True))
    return _svg(title, height, parts)


def log_plot(title: str, x_name: str, y_name: str, series: Sequence[Series], height: int = 380) -> str:
    """Series on two logarithmic axes; empty ones are left out."""
    series = [each for each in series if each.points]
    if not series:
        return ""
    left, bottom, top, right = 70, height - 45, 52, WIDTH - 220
    xs = [x for each in series for x, _ in each.points]
    ys = [y for each in series for _, y in each.points]
    (x_low, x_high), (y_low, y_high) = _decades(xs), _decades(ys)

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            left + (right - left) * (math.log10(x) - x_low) / (x_high - x_low),
            bottom - (bottom - top) * (math.log10(y) - y_low) / (y_high - y_low),
        )

    parts = [_text(left, 20, title, "start", True)]
    for power in range(x_low, x_high + 1):
        x, _ = at(10.0**power, 10.0**y_low)
        parts += [_line(x, top, x, bottom, "#ddd"), _text(x, bottom + 16, _power(power), "middle")]
    for power in range(y_low, y_high + 1):
        _, y = at(10.0**x_low, 10.0**power)
        parts += [_line(left, y, right, y, "#ddd"), _text(left - 6, y + 4, _power(power), "end")]
    parts += [_text((left + right) / 2, height - 8, x_name, "middle"), _text(left - 60, top - 10, y_name)]
    for i, each in enumerate(series):
        colour = COLOURS[each.colour % len(COLOURS)]
        places = [at(x, y) for x, y in each.points]
        if each.line:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for (x, y), (px, py) in zip(each.points, places, strict=True):
            if not each.line:
                name = escape(f"{each.name}: {digits(x)}, {digits(y)}")
                parts.append(
                    f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4" fill="{colour}"><title>{name}</title></circle>'
                )
        parts.append(_text(right + 12, top + 16 * (i + 1), each.name, colour=colour))
    return _svg(title, height, parts)


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _power(power: int) -> str:
    return digits(10.0**power) if -3 <= power <= 4 else f"1e{power}"


def _text(x: float, y: float, text: str, anchor: str = "start", bold: bool = False, colour: str = "#111") -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{weight}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dash}/>'


def _svg(title: str, height: int, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="{escape(title)}" font-family="sans-serif" font-size="12">{"".join(parts)}</svg>'
    )
