"""Figures in documents that are those of a committed run: blocks that are written by a program and checked by a test.

<!-- bench: bench/results/throughput -->
... the run's short table ...
<!-- end -->
"""

from __future__ import annotations

import re
from pathlib import Path

from metaqap_fast.bench import report
from metaqap_fast.bench.runs import read
from metaqap_fast.errors import MetaqapError

BLOCK = re.compile(r"(<!-- bench: (\S+) -->\n)(.*?)(<!-- end -->)", re.S)
NONE = "No run has been committed yet.\n"


def quoted(text: str, root: Path) -> str:
    """A document with its blocks as the runs under `root` have them.

    Raises:
        RunError: a folder that holds no whole run.
        MetaqapError: a run on a busy machine, which is not to be quoted.
    """
    return BLOCK.sub(lambda match: match[1] + table(root / match[2]) + match[4], text)


def table(path: Path) -> str:
    """What stands in a block: the run's short table and where it was measured, or that there is none."""
    if not path.exists():
        return NONE
    run = read(path)
    section = report.summary(run)
    if any("busy machine" in str(value) for row in section.rows for value in row):
        raise MetaqapError(f"{path} was measured on a busy machine: measure again before it is quoted")
    return f"{report.markdown(section)}\n\n{report.headline(run)}.\n"
