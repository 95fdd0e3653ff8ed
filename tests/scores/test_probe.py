"""A score file from elsewhere is read by another process first; this one has seen neither a hang nor a crash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metaqap_fast.errors import MetaqapError
from metaqap_fast.scores import probe
from metaqap_fast.scores.probe import try_out
from metaqap_fast.scores.table import ScoreTable
from rows import a_row


@pytest.fixture
def path(tmp_path: Path) -> Path:
    ScoreTable.from_rows([a_row(b"a")], {"members": ["a", "b"]}).save(tmp_path / "s.h5")
    return tmp_path / "s.h5"


def test_it_is_read_to_its_end_in_another_process(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By this program wherever it is imported from, in silence; a module in the current folder is not imported."""
    started: list[tuple[subprocess.Popen[bytes], dict[str, Any]]] = []
    waits: list[float] = []

    class Watched(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append((self, options))

        def wait(self, timeout: float | None = None) -> int:
            waits.append(timeout or 0)
            return super().wait(timeout)

    monkeypatch.setattr(subprocess, "Popen", Watched)
    (path.parent / "h5py.py").write_text("import os; os.abort()")
    monkeypatch.chdir(path.parent)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert try_out("s.h5") is None
    ((process, options),) = started
    assert process.returncode == 0 and waits[0] == pytest.approx(30 + path.stat().st_size / 1e6)
    assert {options[name] for name in ("stdin", "stdout", "stderr")} == {subprocess.DEVNULL}


def test_what_is_wrong_in_an_orderly_way_is_left_to_the_reader(path: Path) -> None:
    path.write_bytes(b"no score file")
    try_out(path)
    try_out(path.parent / "missing.h5")


def test_a_hang_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "SECONDS", 1.0)
    monkeypatch.setattr(probe, "_CODE", "import time; time.sleep(60)")
    with pytest.raises(MetaqapError, match=rf"^{path} is damaged: HDF5 has not read it in 1 seconds$"):
        try_out(path)


def test_a_crash_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_CODE", "import os; os.abort()")
    with pytest.raises(MetaqapError, match=rf"^{path} is damaged: HDF5 crashes on it \(SIGABRT\)$"):
        try_out(path)
    monkeypatch.setattr(probe, "_CODE", "raise SystemExit(1)")
    try_out(path)


def test_one_of_many_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read together, and those behind one that is wrong in an orderly way too."""
    others = [path.with_name(f"{i}.h5") for i in range(3)]
    for other in others:
        other.write_bytes(b"no score file")
    crashes = "import os, sys\nfor p in sys.argv[1:]:\n    if p.endswith('2.h5'): os.abort()"
    started: list[Any] = []
    original = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **o: started.append(a) or original(*a, **o))
    try_out(path, *others)
    assert len(started) == 1
    monkeypatch.setattr(probe, "_CODE", crashes)
    with pytest.raises(MetaqapError, match=rf"^{others[2]} is damaged: HDF5 crashes on it"):
        try_out(path, *others)
