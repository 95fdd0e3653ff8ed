"""A run on a GPU has a process of its own, whose end is a line and costs no committed row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from command import many
from metaqap_fast.engine.cuda import Gpu, NoGpu
from metaqap_fast.errors import MetaqapError
from metaqap_fast.input import open_sources
from metaqap_fast.scale import shards
from metaqap_fast.scale.shards import run_shards, with_processes
from metaqap_fast.scores.table import ScoreTable

# In the process: a Scorer on the CPU that calls itself one on a GPU, and in its 41st image a library that crashes.
CRASHES = """
import os, signal
import metaqap_fast.scorer as module
made, stream = module.Scorer.__init__, module.Scorer.stream
module.Scorer.__init__ = lambda self, **options: made(self, **{**options, "device": "cpu"})
def crashing(self, entries, trace=None):
    for done, row in enumerate(stream(self, entries, trace)):
        if done == 40:
            os.kill(os.getpid(), signal.SIGSEGV)
        yield row
module.Scorer.stream = crashing
"""


def none() -> list[Gpu]:
    raise NoGpu("no NVIDIA driver on this machine", plain=True)


def test_which_devices_have_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [Gpu(i, "NVIDIA H100", 90, 80 << 30) for i in range(2)]
    defaults = "metaqap_fast.engine.choice.choose.__defaults__"
    monkeypatch.setattr(defaults, (lambda: gpus, lambda name: True))
    assert with_processes(["auto"], "auto") == ["cuda:0"] and with_processes(["cuda:1"], "torch") == ["cuda:1"]
    assert with_processes(["cuda:0", "cuda:0"], "auto") == ["cuda:0"] * 2
    assert with_processes(["cpu"], "auto") == with_processes(["auto"], "openvino") == []
    monkeypatch.setattr(defaults, (none, lambda name: True))
    assert with_processes(["auto"], "auto") == with_processes(["auto"], "torch") == []


def test_a_library_that_crashes_costs_no_committed_row(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = many(tmp_path / "many", 60), tmp_path / "s.h5"
    options: dict[str, Any] = {"model": str(bundle), "precision": "fp32"}
    command = shards.child.command
    monkeypatch.setattr(shards.child, "command", lambda main: command(f"{CRASHES}\n{main}"))
    with pytest.raises(MetaqapError) as caught:
        run_shards(["cuda:0"], open_sources([source]), out, "new", options, rows_per_part=10)
    assert str(caught.value) == (
        "the process on cuda:0 ended with status -11 (SIGSEGV). Rows committed so far are safe; go on with --resume. "
        "If it happens again, an image may have crashed its decoder: score with --device cpu into another file"
    )
    kept = [ScoreTable.read(part) for part in (tmp_path / "s.h5.parts").glob("part-*.h5")]
    assert sum(map(len, kept)) == 40 and all(table.ok.all() for table in kept)
    monkeypatch.setattr(shards.child, "command", command)
    summary = run_shards(["cpu"], open_sources([source]), out, "resume", options)
    assert (summary.done, summary.images, int(ScoreTable.read(out).ok.sum())) == (40, 20, 60)


def test_what_stops_the_process_is_said_once(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its own words, which name the device already."""
    lost = CRASHES.replace("os.kill(os.getpid(), signal.SIGSEGV)", "raise GpuLost('cuda:0: Test stopped working')")
    command = shards.child.command
    monkeypatch.setattr(
        shards.child, "command", lambda main: command(f"from metaqap_fast.gpu_errors import GpuLost\n{lost}\n{main}")
    )
    options: dict[str, Any] = {"model": str(bundle), "precision": "fp32"}
    with pytest.raises(MetaqapError, match=r"^cuda:0: Test stopped working$"):
        run_shards(["cuda:0"], open_sources([many(tmp_path / "many", 60)]), tmp_path / "s.h5", "new", options)
