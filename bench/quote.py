"""Figures in documents that are those of committed runs: blocks that are written by a program and checked by a test.

<!-- bench: bench/results/throughput -->
... the run's short table ...
<!-- end -->

With the name of a view (see `views`) before several runs, its table of all of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from metaqap_fast.bench import report, views
from metaqap_fast.bench.figures import Section
from metaqap_fast.bench.runs import read
from metaqap_fast.errors import MetaqapError

BLOCK = re.compile(r"(<!-- bench: (?:(\w+) )?(\S+(?: \S+)*) -->\n)(.*?)(<!-- end -->)", re.S)
NONE = "No run has been committed yet.\n"


def quoted(text: str, root: Path) -> str:
    """A document with its blocks as the runs under `root` have them.

    Raises:
        RunError: a folder that holds no whole run.
        MetaqapError: an unknown view, or a run on a busy machine, which is not to be quoted.
    """
    return BLOCK.sub(lambda match: match[1] + block(match[2], match[3].split(), root) + match[5], text)


def block(view: str | None, names: Sequence[str], root: Path) -> str:
    """What stands in a block: a table and where it was measured, or that there is none."""
    paths = [root / name for name in names]
    if not all(path.exists() for path in paths):
        return NONE
    if view is None:
        return "\n".join(_table(report.summary(read(path)), [path]) for path in paths)
    if view not in views.VIEWS:
        raise MetaqapError(f"unknown view {view!r}: one of {', '.join(views.VIEWS)}")
    return _table(views.VIEWS[view](paths), paths)


def _table(section: Section, paths: Sequence[Path]) -> str:
    if any("busy machine" in str(value) for row in section.rows for value in row):
        raise MetaqapError(f"{paths[0]} was measured on a busy machine: measure again before it is quoted")
    runs = [read(path) for path in paths if path.is_dir()]
    told = report.headline(runs[0]) if len(runs) == 1 else "Runs of " + ", ".join(dict.fromkeys(map(report.when, runs)))
    note = f" {section.note}." if section.note and len(paths) > 1 else ""
    return f"{report.markdown(section)}\n\n{told}.{note}\n"
