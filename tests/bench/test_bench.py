"""The benchmark suite's own rules: statistics, idleness, what is a sample and what is a run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pynvml
import pytest

from bench_runs import record
from metaqap_fast.bench import idle, stats, usage
from metaqap_fast.bench.figures import Figures
from metaqap_fast.bench.job import Work, timed
from metaqap_fast.bench.runs import Recorder, RunError, read
from metaqap_fast.bench.sampling import Case, Settings, once, sample, schedule
from metaqap_fast.errors import UsageError

ROOT = Path(__file__).parents[2]
QUICK = Settings(repeats=1, seconds=0.0, patience=0.0)


# --- statistics ---


def test_medians_and_ratios_have_intervals_that_hold_the_truth() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        found = stats.interval(rng.normal(10, 1, 15).tolist())
        held += found.low <= 10 <= found.high
    assert 181 <= held <= 193  # of 200; intervals of 90 % hold it 177 times, of 99 % 195 times
    ratio = stats.ratio([20, 22, 21], [10, 11, 10.5])
    assert ratio.value == 2.0 and ratio.low < 2 < ratio.high
    alone = stats.interval([3.0])
    assert (alone.value, alone.low, alone.high, alone.count) == (3.0, 3.0, 3.0, 1)
    half = stats.ratio([2.0, 4.0, 6.0], [2.0])  # one sample is redrawn as itself
    assert (half.value, half.low, half.high, half.count) == (2.0, 1.0, 3.0, 1)
    mean = stats.mean(rng.normal(10, 1, 2500))  # the standard error is 0.02
    assert abs(mean.value - 10) < 0.1 and mean.high - mean.low == pytest.approx(2 * 1.96 * 0.02, rel=0.1)
    with pytest.raises(ValueError, match="no samples"):
        stats.interval([])


def test_the_exponent_is_the_power() -> None:
    sizes = [1e3, 1e4, 1e5, 1e6]
    found = stats.exponent(sizes * 2, [1e-6 * n**1.5 for n in sizes] * 2)
    assert found.value == pytest.approx(1.5) and found.low == pytest.approx(1.5) and found.high == pytest.approx(1.5)
    few = stats.exponent([10, 100], [1, 10])  # half of the draws are of one size alone
    assert (few.value, few.low, few.high) == pytest.approx((1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="two different sizes"):
        stats.exponent([10, 10], [1, 2])


def test_digits() -> None:
    assert [stats.digits(v) for v in (0.98765, 12.345, 123456.0, 0.0012345, 0.0, float("nan"), 1e-9)] == [
        "0.988", "12.3", "123,456", "0.00123", "0", "-", "1.00e-09",
    ]  # fmt: skip


# --- idle ---


def test_others_are_what_is_busy_and_not_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "online").write_text("0,2\n")  # CPU 1 is switched off: /proc/stat leaves it out
    monkeypatch.setattr(idle, "ONLINE", tmp_path / "online")

    def reading(when: float, first: int, second: int, steal: int, own: float) -> idle.Reading:
        rest = {"idle": 1000 + 7 * when, "iowait": 7 * when, "irq": 7 * when, "softirq": 7 * when}
        times = [SimpleNamespace(user=first, nice=0, system=100, steal=0, **rest),
                 SimpleNamespace(user=0, nice=second, system=100, steal=steal, **rest)]  # fmt: skip
        monkeypatch.setattr(psutil, "cpu_times", lambda percpu: times)
        return idle.Reading(when, idle.busy(), own)

    before = reading(0, 0, 0, 0, 0)
    assert idle.others(before, reading(10, 10, 10, 0, 20.0), {0, 2}) == pytest.approx(0)
    assert idle.others(before, reading(10, 10, 4, 0, 10.0), {0, 2}) == pytest.approx(0.2)
    assert idle.others(before, reading(10, 0, 0, 5, 0), {0, 2}) == pytest.approx(0.25)  # a neighbour on the host
    assert idle.others(before, reading(10, 10, 0, 0, 5.0), {0}) == pytest.approx(0.5)  # on our CPU, not all of them
    assert idle.others(before, reading(10, 0, 10, 0, 0), {2}) == pytest.approx(1.0)
    assert idle.others(before, reading(10, 0, 0, 0, 3.0), {0, 2}) == 0.0


def test_the_kernel_s_threads_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """They write for whoever asked; in a container process 2 is somebody else."""
    seconds = {None: 10.0, idle.KTHREADD: 3.0}
    monkeypatch.setattr(idle, "tree_seconds", lambda pid=None: seconds[pid])
    for name, own in (("kthreadd", 13.0), ("bash", 10.0)):
        monkeypatch.setattr(psutil, "Process", lambda pid, name=name: SimpleNamespace(name=lambda: name))
        assert idle.read().own == own

    def gone(pid: int) -> None:
        raise psutil.NoSuchProcess(pid)

    monkeypatch.setattr(psutil, "Process", gone)
    assert idle.read().own == 10.0


def burn(seconds: float) -> str:
    """A program that takes so much CPU time, however long that takes."""
    return f"import time\nwhile time.process_time() < {seconds}: pass"


def test_our_own_children_do_not_count_as_others_and_strangers_do() -> None:
    before = idle.read()
    subprocess.run([sys.executable, "-c", burn(0.4)], check=True)
    assert idle.read().own - before.own > 0.35  # the kernel's counters step by 0.01
    # A stranger, whose parent is gone, on one CPU: of many CPUs it would have a small share.
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    command = f"{sys.executable} -c '{burn(30)}' >/dev/null 2>&1 & echo $!"
    stranger = int(subprocess.run(["sh", "-c", command], check=True, capture_output=True, text=True).stdout)
    try:
        assert stranger not in [process.pid for process in idle.tree()]
        assert idle.look() > idle.LIMIT
    finally:
        os.kill(stranger, signal.SIGKILL)
        os.sched_setaffinity(0, allowed)


def test_a_disturbed_repetition_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter([0.0, 0.2])
    monkeypatch.setattr(idle, "look", lambda seconds=0: next(shares))
    monkeypatch.setattr(idle, "others", lambda before, after: 0.0)
    result = timed(Work(lambda: 5.0), 0.0, 0.0)
    assert result["busy"] and result["others"] == {"before": 0.0, "during": 0.0, "after": 0.2}
    monkeypatch.setattr(idle, "look", lambda seconds=0: 0.01)
    assert not timed(Work(lambda: 5.0), 0.0, 0.0)["busy"]


def test_costs_are_those_of_the_work_and_its_children(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(10_000_000))
    look = usage.spent(usage.read(), usage.read())["read_bytes"]  # /proc, for a look at the counters
    before = usage.read()
    (tmp_path / "data").read_bytes()
    subprocess.run(["cat", tmp_path / "data"], check=True, stdout=subprocess.DEVNULL)  # gone when it is asked for
    child = subprocess.Popen([sys.executable, "-c", f"{burn(0.4)}\nprint(flush=True)\ntime.sleep(60)"], stdout=-1)
    assert child.stdout is not None and child.stdout.readline()
    spent = usage.spent(before, usage.read())
    child.kill()
    child.communicate()
    assert 20_000_000 <= spent["read_bytes"] - look < 25_000_000  # and what Python reads to start
    assert spent["cpu_seconds"] > 0.35  # the kernel's counters, two for each process, step by 0.01
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    (zone / "energy_uj").write_text("2500000\n")
    assert usage.energy(tmp_path)[0] == pytest.approx(2.5) and "RAPL" in usage.energy(tmp_path)[1]
    if (joules := usage.energy(tmp_path / "none"))[0] is None:
        assert "no RAPL" in joules[1] and "NVML: " in joules[1]


def test_the_energy_of_gpus_is_summed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", lambda gpu: 1000 + 500 * gpu)  # millijoules
    assert usage.energy(tmp_path) == (2.5, "NVML")


# --- runs on disk ---


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = read(record(tmp_path / "a", samples=[{"case": "x", "labels": {}}], repeats=3))
    assert found.kind == "throughput" and found.settings == {"repeats": 3} and found.samples[0]["case"] == "x"
    env = found.environment
    assert env["cpu_flags"] and env["libraries"]["numpy"] == np.__version__ and len(env["commit"] or 40 * "x") == 40
    assert str(ROOT) not in json.dumps(env) and "hostname" not in env
    with pytest.raises(UsageError, match="never changed"):
        Recorder(tmp_path / "a", "throughput", {})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "complete.json").unlink(), "interrupted run"),
        (lambda p: (p / "samples.jsonl").write_text('{"case": "forged"}\n'), "samples.jsonl is not the file"),
        (lambda p: (p / "samples.jsonl").unlink(), "samples.jsonl is not the file"),
        (lambda p: (p / "more.txt").write_text("x"), "more.txt is not the file"),
        (lambda p: (p / "complete.json").write_text("{"), "damaged"),
        (lambda p: (p / "complete.json").write_text("[]"), "damaged"),
        (shutil.rmtree, "not a benchmark run"),
    ],
)
def test_half_a_run_is_never_reported(
    damage: Callable[[Path], Any], message: str, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    path = record(tmp_path / "a", samples=[{"case": "x", "labels": {"stage": "whole"}}])
    damage(path)
    with pytest.raises(RunError, match=message):
        read(path)
    result = cli("bench", "report", path)
    assert result.exit_code == 1 and message in result.stderr and len(result.stderr.splitlines()) == 1


def test_a_run_of_a_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from metaqap_fast.bench import runs

    monkeypatch.setattr(runs, "VERSION", 2)
    path = record(tmp_path / "a")
    monkeypatch.undo()
    with pytest.raises(RunError, match="format metaqap-bench 2"):
        read(path)


# --- sampling ---


def test_every_repetition_has_every_case_in_an_order_of_its_own() -> None:
    cases = [Case(str(i), "stage.write", {}) for i in range(8)]
    order = schedule(cases, Settings(repeats=3))
    blocks = [[case.name for _, case in order[8 * n : 8 * n + 8]] for n in range(3)]
    assert all(sorted(block) == list("01234567") for block in blocks) and len({tuple(b) for b in blocks}) == 3


def fake_python(folder: Path, name: str, script: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_case_that_crashes_hangs_or_is_missing_leaves_the_others(tmp_path: Path) -> None:
    done = json.dumps(
        {"unit": "images", "units": 2, "calls": 1, "seconds": 1, "busy": False, "others": {"before": 0}, "facts": {}}
    )
    cases = [
        Case("crash", "", {}, python=fake_python(tmp_path, "a", "echo oh no >&2; kill -SEGV $$")),
        Case("hang", "", {}, python=fake_python(tmp_path, "b", "sleep 600"), timeout=0.5),
        Case("status", "", {}, python=fake_python(tmp_path, "c", "exit 3")),
        Case("gone", "", {}, python=str(tmp_path / "no-python")),
        Case("skip", "", {}, python=fake_python(tmp_path, "d", """echo '{"skipped": "x is not installed"}'""")),
        Case("good", "", {}, python=fake_python(tmp_path, "e", f"cat >/dev/null; echo '{done}'")),
    ]
    recorder = Recorder(tmp_path / "run", "peers", {})
    start, said = time.monotonic(), []
    sample(cases, recorder, Settings(repeats=2), said.append)
    assert time.monotonic() - start < 60
    figures = Figures(read(recorder.finish()))
    failures = "\n".join(figures.failures())
    assert "crash: failed: ended by SIGSEGV: oh no" in failures and "hang: failed: stopped after 0 s" in failures
    assert "status: failed: ended with status 3" in failures and "cannot be run" in failures
    assert "skip: skipped: x is not installed" in failures and figures.rates("good") == [2.0, 2.0]
    assert len(figures.cases["skip"]) == 1 and len(figures.cases["crash"]) == 2  # a skip is not tried again
    assert len(said) == 11


@pytest.mark.full
def test_a_repetition_is_a_process_of_its_own(bundle: Path, folder: Path) -> None:
    options = {"sources": [str(folder)], "count": None, "model": str(bundle)}
    options |= {"engine": "auto", "device": "cpu", "precision": "auto", "batch_size": None}
    listing, whole = (once(Case(name, f"stage.{name}", options), QUICK) for name in ("listing", "whole"))
    assert listing["units"] == whole["units"] == 13 and whole["facts"]["scored"] == 10 / 13
    assert set(whole["others"]) == {"before", "during", "after"} and whole["busy"] in (True, False)
    assert whole["cpu_seconds"] > 0 and whole["peak_mb"] > listing["peak_mb"]


def test_the_error_of_a_work_is_its_reason() -> None:
    bad = once(Case("x", "stage.decode", {"model": "nosuch", "sources": [], "count": 1}), QUICK)
    assert "unknown model 'nosuch'" in bad["failed"]
    assert "failed" in once(Case("x", "stage.nosuch", {}), QUICK)
