"""Runs to people: a table for a terminal, JSON, and one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import importlib
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from metaqap_fast.bench import plots, repeat
from metaqap_fast.bench.figures import Figures, Section, number, show
from metaqap_fast.bench.runs import Run
from metaqap_fast.errors import MetaqapError

MODULES = {
    "throughput": "metaqap_fast.bench.throughput",
    "limit": "metaqap_fast.bench.limits",
    "peers": "metaqap_fast.bench.peers",
    "accuracy": "metaqap_fast.bench.accuracy",
    "scale": "metaqap_fast.bench.scale",
}
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_STYLE = """
body { font: 15px/1.5 sans-serif; color: #111; background: #fff; max-width: 78rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-size: 13px; margin: .7rem 0 } .wide { overflow-x: auto }
th, td { border-bottom: 1px solid #ccc; padding: .25rem .6rem; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left } th { background: #f2f2f2 }
.warning { background: #fff0d8; border-left: 4px solid #cc7700; padding: .4rem .8rem } .note { color: #555 }
figure { margin: .7rem 0 } img { max-width: 100% }
details { margin: .7rem 0 } pre { font-size: 12px; white-space: pre-wrap }
"""


def sections(run: Run, even_busy: bool = False) -> list[Section]:
    """A run's tables and pictures."""
    made: list[Section] = importlib.import_module(MODULES[run.kind]).sections(Figures(run, even_busy))
    return made


def summary(run: Run) -> Section:
    """The short table of a run, for quoting; only undisturbed repetitions count."""
    module = importlib.import_module(MODULES[run.kind])
    made: Section = getattr(module, "summary", lambda figures: module.sections(figures)[0])(Figures(run))
    return made


def repeated(runs: Sequence[Run], even_busy: bool = False) -> list[Section]:
    """For each kind that there are several runs of: whether their ratios agree."""
    by_kind: dict[str, list[Run]] = {}
    for run in runs:
        by_kind.setdefault(run.kind, []).append(run)
    return [
        repeat.compared([(run.name, sections(run, even_busy)) for run in group])
        for group in by_kind.values()
        if len(group) > 1
    ]


def warnings(run: Run, even_busy: bool = False) -> list[str]:
    """What a reader must know before any figure."""
    figures = Figures(run, even_busy)
    busy, done = figures.disturbed()
    said = []
    if busy:
        what = "they count here all the same: no results" if even_busy else "they do not count"
        said.append(f"The machine was busy with something else in {busy} of {done} repetitions; {what}.")
    if run.environment.get("dirty"):
        said.append("The program's files differed from the commit that is named.")
    return said + figures.failures()


def headline(run: Run) -> str:
    """One line: kind, time, machine, commit."""
    env = run.environment
    where = f"{env['cpu']}, {env['cpus_allowed']} CPUs, {env['program_version']}"
    return f"{run.kind}, {run.created}, {where} {_commit(run)}"


def when(run: Run) -> str:
    """Day and commit."""
    return f"{run.created[:10]} at {_commit(run)}"


def _commit(run: Run) -> str:
    env = run.environment
    return (env.get("commit") or "no checkout")[:12] + (" (dirty)" if env.get("dirty") else "")


def text(run: Run, even_busy: bool = False) -> str:
    """For a terminal."""
    parts = [f"{run.name}: {headline(run)}", *(f"! {warning}" for warning in warnings(run, even_busy))]
    return "\n".join(parts + [plain(section) for section in sections(run, even_busy)])


def plain(section: Section) -> str:
    """A section's table for a terminal."""
    cells = [section.columns, *([show(value) for value in row] for row in section.rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(section.columns))]
    lines = ["  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(["", section.title, *(line.rstrip() for line in lines), *([section.note] if section.note else [])])


def markdown(section: Section) -> str:
    """A section's table."""
    rows = [section.columns, ["---"] * len(section.columns), *([show(value) for value in row] for row in section.rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def document(run: Run, even_busy: bool = False) -> dict[str, Any]:
    """For JSON."""
    return {
        "run": run.name,
        "kind": run.kind,
        "created": run.created,
        "settings": run.settings,
        "environment": run.environment,
        "warnings": warnings(run, even_busy),
        "sections": [
            {"title": s.title, "rows": [dict(zip(s.columns, map(number, row), strict=True)) for row in s.rows]}
            for s in sections(run, even_busy)
        ],
    }


def page(runs: Sequence[Run], even_busy: bool = False) -> str:
    """One HTML page: no scripts, no network, pictures inside."""
    body = "".join(_html(run, even_busy) for run in runs)
    body += "".join(_section(section) for section in repeated(runs, even_busy))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>metaqap-fast benchmarks</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<link rel="icon" href="data:,"><style>{_STYLE}</style></head>'
        f"<body><h1>metaqap-fast benchmarks</h1>{body}</body></html>\n"
    )


def write_page(path: Path, runs: Sequence[Run], even_busy: bool = False) -> None:
    """`page` as a file, in place of any that is there.

    Raises:
        MetaqapError: it cannot be written.
    """
    try:
        path.write_text(page(runs, even_busy), encoding="utf-8")
    except OSError as error:
        raise MetaqapError(f"cannot write {path}: {error.strerror}") from None


def _html(run: Run, even_busy: bool) -> str:
    parts = [f'<section data-run="{escape(run.name)}"><h2>{escape(run.name)}</h2><p>{escape(headline(run))}</p>']
    parts += [f'<p class="warning">{escape(warning)}</p>' for warning in warnings(run, even_busy)]
    parts += [_section(section) for section in sections(run, even_busy)]
    facts = json.dumps({"settings": run.settings, "environment": run.environment}, indent=1)
    parts.append(f"<details><summary>Settings and environment</summary><pre>{escape(facts)}</pre></details></section>")
    return "".join(parts)


def _section(section: Section) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in section.columns)
    rows = "".join("<tr>" + "".join(f"<td>{escape(show(v))}</td>" for v in row) + "</tr>" for row in section.rows)
    parts = [f'<h3>{escape(section.title)}</h3><div class="wide"><table><tr>{head}</tr>{rows}</table></div>']
    for picture in section.pictures:
        data = base64.b64encode(plots.svg(picture()).encode()).decode()
        parts.append(f'<figure><img alt="{escape(section.title)}" src="data:image/svg+xml;base64,{data}"></figure>')
    parts += [f'<p class="note">{escape(section.note)}</p>'] if section.note else []
    return "".join(parts)
