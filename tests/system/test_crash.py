"""Whatever happens to a run, a committed row stays and the resumed output is that of an undisturbed run.

Kills are random and seeded (`crash.py`). Most tests here score with made-up rows: listing, run, store and merge
are the program's own. Each protection is also taken out once, to see that the test notices.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crash
from command import COMMAND, many
from metaqap_fast.cli import main as _cli  # noqa: F401 -- imported once, before anything forks
from metaqap_fast.errors import Status
from metaqap_fast.input.files import File, Listing
from metaqap_fast.scorer import Scorer
from metaqap_fast.scores.table import ScoreTable

SUPPORT = Path(__file__).parents[1] / "support"
SEED = 20260
BAD = ("different", "committed_rows_lost", "rows_scored_again", "failed_runs")


def kill(folder: Path, kills: int, seed: int, mutation: str = "", form: str = "folder") -> dict[str, Any]:
    command = [sys.executable, str(SUPPORT / "crash.py"), str(folder), str(kills), str(seed), mutation, form]
    result = subprocess.run(command, capture_output=True, text=True, timeout=3000)
    assert result.stdout, result.stderr
    return dict(json.loads(result.stdout))


def check(result: dict[str, Any], kills: int) -> None:
    assert result["kills"] == kills and result["outputs"] >= 1
    for name in BAD:
        assert result[name] == 0, result


@pytest.mark.full
def test_20_kills(fast: Path) -> None:
    check(kill(fast, 20, SEED), 20)


@pytest.mark.nightly
def test_1000_kills(fast: Path) -> None:
    check(kill(fast, 1000, SEED + 1), 1000)


@pytest.mark.nightly
@pytest.mark.parametrize("form", ["tar", "tar.gz", "parquet"])
def test_100_kills_of_members(fast: Path, form: str) -> None:
    check(kill(fast, 100, SEED + 2, form=form), 100)


@pytest.mark.nightly
@pytest.mark.parametrize("form", ["s3-tar", "s3-objects"])
def test_20_kills_of_runs_over_a_bucket(fast: Path, form: str) -> None:
    result = kill(fast, 20, SEED + 3, form=form)
    check(result, 20)
    assert result["with_rows"] >= 5, "too few kills came after the first rows: they show nothing"


@pytest.mark.full
@pytest.mark.parametrize("mutation", ["in_place", "forget", "output_in_place"])
def test_kills_are_noticed_without_the_protection(fast: Path, mutation: str) -> None:
    """A hundred kills miss the moment of a write one time in thirteen; more are made until one hits it."""
    for attempt in range(5):
        (fast / str(attempt)).mkdir()
        result = kill(fast / str(attempt), 100, SEED + attempt, mutation)
        if any(result[name] for name in BAD):
            return
    pytest.fail(f"500 kills were not noticed: {result}")


@pytest.mark.full
def test_a_real_run_is_killed_and_resumed(bundle: Path, tmp_path: Path) -> None:
    """The command itself, decoder process and all: three kills at seeded moments."""
    folder, rng = many(tmp_path / "photos", 1500), np.random.default_rng(SEED)
    arguments = ["score", str(folder), "--model", str(bundle), "--rows-per-part", "100", "--quiet", "-o"]
    subprocess.run([*COMMAND, *arguments, str(tmp_path / "whole.h5")], check=True, timeout=300)
    out = tmp_path / "cut.h5"
    for _ in range(3):
        process = subprocess.Popen([*COMMAND, *arguments, str(out), "--resume"], start_new_session=True)
        before = len(list(tmp_path.glob("cut.h5.parts/part-*.h5")))
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("cut.h5.parts/part-*.h5"))) < before + 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.wait()
    safe = crash.committed(out)
    assert len(safe) >= 600
    subprocess.run([*COMMAND, *arguments, str(out), "--resume"], check=True, timeout=300)
    assert crash.datasets(out) == crash.datasets(tmp_path / "whole.h5")


# --- sources, and a machine that sleeps --------------------------------------------------------------------


def test_files_that_change_between_listing_and_reading(bundle: Path, folder: Path) -> None:
    victims = {"0.png": "delete", "1.png": "folder", "2.png": "shrink", "3.png": "fifo", "4.png": "loop"}

    def entries() -> Iterator[File]:
        for entry in list(Listing([folder])):
            path, deed = Path(os.fsdecode(entry.path)), victims.get(os.fsdecode(entry.key))
            if deed == "shrink":
                path.write_bytes(path.read_bytes()[:200])
            elif deed:
                path.unlink()
                if deed == "folder":
                    path.mkdir()
                elif deed == "fifo":
                    os.mkfifo(path)
                elif deed == "loop":
                    path.symlink_to(path.name)
            yield entry

    scorer = Scorer(str(bundle), precision="fp32")
    found = {os.fsdecode(row.key): row.status for row in scorer.stream(entries())}
    scorer.close()
    assert len(found) == 13
    assert [found[name] for name in victims] == [
        Status.unreadable, Status.unreadable, Status.corrupt, Status.unreadable, Status.unreadable
    ]  # fmt: skip
    assert all(found[f"b/{i}.jpg"] == Status.ok for i in range(5))


@pytest.mark.full
def test_a_stopped_run_blames_no_image(bundle: Path, tmp_path: Path) -> None:
    """SIGSTOP for three times --max-seconds, of the run and of its decoder, then SIGCONT."""
    folder = many(tmp_path / "photos", 3000)
    arguments = ["score", folder, "--model", bundle, "-o", tmp_path / "s.h5", "--max-seconds", "1", "--strict"]
    process = subprocess.Popen([*COMMAND, *map(str, arguments), "--rows-per-part", "100", "--quiet"])
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("s.h5.parts/part-*.h5")) and time.monotonic() < deadline:
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for number, pause in ((signal.SIGSTOP, 3.0), (signal.SIGCONT, 0.0)):
        for pid in (process.pid, *map(int, children)):
            os.kill(pid, number)
        time.sleep(pause)
    assert process.wait(300) == 0
    table = ScoreTable.read(tmp_path / "s.h5")
    assert len(table) == 3000 and table.ok.all()
