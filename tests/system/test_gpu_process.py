"""The command has a process of its own for a GPU, whose end is a line and costs no committed row."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from PIL import Image

from command import many, run
from fake_driver import fake_driver
from metaqap_fast import cli
from metaqap_fast.engine.cuda import Gpu, NoGpu
from metaqap_fast.errors import MetaqapError
from metaqap_fast.gpu_errors import gpu_lost
from metaqap_fast.scale import apart
from metaqap_fast.scores.table import ScoreTable

# The command on a machine whose GPU is the CPU, and where something happens behind the 40th image.
COMMAND = """
import metaqap_fast.scale.apart as apart
apart.needed = lambda engine, device: "cuda:0"
apart._CODE = '''import os, signal, time
import metaqap_fast.scale.apart as apart
import metaqap_fast.scorer as module
apart.needed = lambda engine, device: ""
stream = module.Scorer.stream
def troubled(self, entries, trace=None):
    for done, row in enumerate(stream(self, entries, trace)):
        if done == 40:
            {trouble}
        yield row
module.Scorer.stream = troubled
''' + apart._CODE
from metaqap_fast.cli import main
main()
"""


def command(trouble: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", COMMAND.format(trouble=trouble), *map(str, arguments)]


def none() -> list[Gpu]:
    raise NoGpu("no NVIDIA driver on this machine", plain=True)


def test_what_has_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [Gpu(i, "NVIDIA H100", 90, 80 << 30) for i in range(2)]
    defaults = "metaqap_fast.engine.choice.choose.__defaults__"
    monkeypatch.setattr(defaults, (lambda: gpus, lambda name: True))
    assert apart.needed("auto", "auto") == "cuda:0" and apart.needed("torch", "cuda:1") == "cuda:1"
    assert not apart.needed("auto", "cuda:0,cuda:1")  # which have one each
    assert not apart.needed("auto", "cpu") and not apart.needed("openvino", "auto")
    assert not apart.needed("auto", "cuda:7")  # the run itself says what is wrong
    monkeypatch.setattr(apart, "inside", True)
    assert not apart.needed("auto", "auto")
    monkeypatch.setattr(apart, "inside", False)
    monkeypatch.setattr(defaults, (none, lambda name: True))
    assert not apart.needed("auto", "auto") and not apart.needed("torch", "auto")


@pytest.fixture
def arguments(bundle: Path, tmp_path: Path) -> Sequence[object]:
    source = many(tmp_path / "many", 60)
    return ["score", source, "-o", tmp_path / "s.h5", "--model", bundle, "--precision", "fp32", "--rows-per-part", "10"]


@pytest.mark.full
def test_a_library_that_crashes_costs_no_committed_row(arguments: Sequence[object], tmp_path: Path) -> None:
    crash = command("os.kill(os.getpid(), signal.SIGSEGV)", *arguments)
    done = subprocess.run(crash, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == (
        "metaqap-fast: the process on cuda:0 ended with status -11 (SIGSEGV). Rows committed so far are safe; go on "
        "with --resume. If it happens again, an image may be what crashes it: score with --device cpu into another file"
    )
    kept = [ScoreTable.read(part) for part in (tmp_path / "s.h5.parts").glob("part-*.h5")]
    assert sum(map(len, kept)) == 40 and all(table.ok.all() for table in kept)
    assert run(*arguments, "--resume", "--device", "cpu", "--quiet").returncode == 0
    table = ScoreTable.read(tmp_path / "s.h5")
    assert len(table) == len(set(table.keys)) == 60 and table.ok.all()


@pytest.mark.full
def test_what_the_process_says_and_returns_is_the_commands(arguments: Sequence[object], tmp_path: Path) -> None:
    (tmp_path / "many" / "bad.png").write_bytes(b"bad")
    done = subprocess.run(command("pass", *arguments, "--strict"), capture_output=True, text=True, check=False)
    assert done.returncode == 3 and "60 scored, 1 failed (1 unsupported)" in done.stderr


@pytest.mark.parametrize(
    ("error", "status", "closed"),
    [
        (None, 0, 1),
        (MetaqapError("the disk is full"), 1, 1),
        (OSError(28, "No space left on device", "s.h5"), 1, 1),
        (gpu_lost("cuda:0", RuntimeError("CUDA error: unknown error")), 1, 0),  # whose libraries may hang: left at once
    ],
)
def test_a_gpus_libraries_are_closed_before_the_interpreter_ends(
    error: Exception | None, status: int, closed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are known to abort, after all is done, where it takes them down."""
    seen: list[str] = []

    def scoring(*_: Any, **__: Any) -> None:
        if error:
            raise error

    def leave(status: int) -> NoReturn:
        seen.append("left")
        raise SystemExit(status)

    scorer = SimpleNamespace(close=lambda: seen.append("closed"))
    monkeypatch.setattr("metaqap_fast.scorer.Scorer", lambda **_: scorer)
    monkeypatch.setattr("metaqap_fast.run.about", lambda _: {})
    monkeypatch.setattr("metaqap_fast.cli.progress.Report.started", lambda *_: None)
    monkeypatch.setattr("metaqap_fast.run.run", scoring)
    monkeypatch.setattr("metaqap_fast.summary.Summary.exit_status", lambda *_: 0)
    monkeypatch.setattr("metaqap_fast.signals.leave", leave)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    with pytest.raises(SystemExit) as caught:
        cli.main(["score", str(tmp_path), "-o", str(tmp_path / "s.h5"), "--device", "cpu", "--quiet"])
    assert caught.value.code == status and seen == ["closed"] * closed + ["left"] * (not closed)


def waiting(arguments: Sequence[object], tmp_path: Path) -> tuple[subprocess.Popen[str], int]:
    """The command, and the number of its process, which waits behind the 40th image."""
    sign = tmp_path / "sign"
    waits = command("open(os.environ['SIGN'], 'w').write(str(os.getpid())); time.sleep(60)", *arguments)
    process = subprocess.Popen(waits, stderr=subprocess.PIPE, text=True, env={**os.environ, "SIGN": str(sign)})
    while not (sign.exists() and sign.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    return process, int(sign.read_text())


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_passed_on(arguments: Sequence[object], tmp_path: Path, number: signal.Signals) -> None:
    process, _ = waiting(arguments, tmp_path)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + number and "everything scored so far is safe" in said, said
    kept = [ScoreTable.read(part) for part in (tmp_path / "s.h5.parts").glob("part-*.h5")]
    assert sum(map(len, kept)) == 40


@pytest.mark.full
def test_it_goes_with_a_killed_command(arguments: Sequence[object], tmp_path: Path) -> None:
    process, number = waiting(arguments, tmp_path)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{number}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{number}").exists()


@pytest.mark.full
def test_a_driver_that_shows_a_gpu_on_which_nothing_runs(bundle: Path, folder: Path, tmp_path: Path) -> None:
    """A run on it ends in one line, not in rows that say that images are corrupt."""
    environment, output = fake_driver(tmp_path / "driver"), tmp_path / "s.h5"
    arguments = ["score", folder, "--model", bundle, "-o", output, "--device", "cuda:0", "--engine", "torch"]
    done = run(*arguments, env=environment)
    assert done.returncode == 1 and not output.exists(), done.stdout + done.stderr
    assert "Traceback" not in done.stderr and done.stderr.strip().splitlines()[-1].startswith("metaqap-fast: ")
