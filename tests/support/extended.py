"""The package with something added, as someone would add it: a new file, and the entry of a table that names it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "metaqap_fast"


def extend(root: Path, files: Mapping[str, str], entries: Mapping[str, Sequence[str]]) -> None:
    """A package `metaqap_fast` in `root`: this one, and what is added.

    Args:
        files: path in the package -> the new file's text.
        entries: path in the package -> for each text that is put in, "what stands there once|and is put behind it".
    """
    target = root / "metaqap_fast"
    changed = {path.split("/")[0] for path in (*files, *entries)}
    target.mkdir()
    for child in PACKAGE.iterdir():
        if child.name in changed:
            shutil.copytree(child, target / child.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (target / child.name).symlink_to(child)
    for path, text in files.items():
        assert not (target / path).exists()
        (target / path).write_text(text)
    for path, additions in entries.items():
        text = (target / path).read_text()
        for there, new in (addition.split("|") for addition in additions):
            assert text.count(there) == 1, (path, there)
            text = text.replace(there, there + new)
        (target / path).write_text(text)


def rows(root: Path, bundle: Path, *sources: object) -> dict[str, tuple[str, float, str]]:
    """What the extended package gives for each image: status, score, error."""
    code = (
        "import sys, json, metaqap_fast\n"
        "from metaqap_fast.scores.export import records\n"
        "table = metaqap_fast.score(sys.argv[2:], model=sys.argv[1], engine='openvino', precision='fp32')\n"
        "print(json.dumps(list(records(table))))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(bundle), *map(str, sources)],
        cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return {row["path"]: (row["status"], row["score"], row["error"]) for row in json.loads(result.stdout)}
