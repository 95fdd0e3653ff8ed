"""What comes from outside is data: nothing is unpickled, nothing is imported from an image folder, no path escapes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from command import run
from metaqap_fast.scores.table import ScoreTable

AUDIT = """
import sys
def audit(event, args):
    if event in ("pickle.find_class", "marshal.loads") and event.startswith("pickle"):
        print("UNPICKLED", args, file=sys.stderr)
sys.addaudithook(audit)
"""


def test_a_whole_run_unpickles_nothing(bundle: Path, folder: Path, tmp_path: Path) -> None:
    """In the run and in its decoding process, by the interpreter's own audit events."""
    out = tmp_path / "s.h5"
    module = tmp_path / "audited_worker.py"
    log = tmp_path / "log"
    module.write_text(
        f"import sys; sys.stderr = open({str(log)!r}, 'w')\n{AUDIT}\nfrom metaqap_fast.decode.worker import main\n"
    )
    code = (
        f"{AUDIT}\nsys.path.append({str(tmp_path)!r})\nfrom metaqap_fast.decode import supervisor\n"
        "supervisor.MODULE = 'audited_worker'\nfrom metaqap_fast.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "score", str(folder), "--model", str(bundle), "-o", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0 and len(ScoreTable.read(out)) == 13
    assert "UNPICKLED" not in result.stderr and "UNPICKLED" not in log.read_text()
    seen = subprocess.run(
        [sys.executable, "-c", f"{AUDIT}\nimport pickle; pickle.loads(pickle.dumps(range(3)))"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert "UNPICKLED" in seen.stderr  # the audit would see it


def test_a_module_in_the_image_folder_is_only_a_file(bundle: Path, folder: Path, tmp_path: Path) -> None:
    for name in ("numpy", "json", "metaqap_fast", "socket"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')")
    script = (
        tmp_path / "command.py"
    )  # as an installed command starts: its own folder first on the path, not the current
    script.write_text("from metaqap_fast.cli import main; main()")
    arguments = ["score", ".", "--model", bundle, "-o", tmp_path / "s.h5"]
    result = subprocess.run(
        [sys.executable, script, *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "link/../../x.png", "a/../../../b.png"])
def test_names_from_lists_write_nothing_anywhere(bundle: Path, folder: Path, tmp_path: Path, name: str) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "list.txt").write_text(name + "\n")
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    result = run("score", f"@{tmp_path}/list.txt", "--model", bundle, "-o", work / "s.h5", cwd=folder)
    assert result.returncode == 5 and "no image could be scored" in result.stderr
    written = {path for path in tmp_path.rglob("*") if "cache" not in path.parts} - before
    assert written == {work / "s.h5"}
    assert ScoreTable.read(work / "s.h5").keys == [os.path.basename(name).encode()]
