"""The loop that all timed benchmarks share: cases, repeated in random order, each time in a fresh process."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from metaqap_fast import child
from metaqap_fast.bench import idle
from metaqap_fast.bench.runs import Recorder

TIMEOUT = 1800.0  # seconds of one repetition
REPEATS = 5
SECONDS = 1.0  # that a short work is repeated for


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to time.

    `labels` say what it is, for tables. `threads`: CPUs that it may use, all by default. `python`: the interpreter
    of another environment that has this program installed.
    """

    name: str
    work: str
    options: dict[str, Any]
    labels: dict[str, Any] = field(default_factory=dict)
    threads: int | None = None
    python: str = sys.executable
    timeout: float = TIMEOUT


@dataclass(frozen=True, slots=True)
class Settings:
    """How often and how patiently."""

    repeats: int = REPEATS
    seconds: float = SECONDS
    patience: float = idle.PATIENCE
    seed: int = 0


def schedule(cases: Sequence[Case], settings: Settings) -> list[tuple[int, Case]]:
    """(repetition, case): every repetition has all cases, in an order of its own."""
    rng = random.Random(settings.seed)
    return [(n, case) for n in range(settings.repeats) for case in rng.sample(list(cases), len(cases))]


def sample(
    cases: Sequence[Case],
    record: Recorder,
    settings: Settings,
    say: Callable[[str], None] = lambda _: None,
) -> int:
    """Run every case `repeats` times and record each sample as it comes; the number that were timed.

    A case that is skipped is not tried again; one that fails is, for the next time may be better.
    """
    timed = 0
    skipped: set[str] = set()
    order = schedule(cases, settings)
    for place, (repetition, case) in enumerate(order, 1):
        if case.name in skipped:
            continue
        result = once(case, settings)
        if "skipped" in result:
            skipped.add(case.name)
        record.add({"case": case.name, "labels": case.labels, "repetition": repetition, "place": place, **result})
        say(f"[{place}/{len(order)}] {case.name}: {describe(result)}")
        timed += "seconds" in result
    return timed


def describe(result: dict[str, Any]) -> str:
    """One sample in a few words."""
    for word in ("skipped", "failed"):
        if word in result:
            return f"{word}: {result[word]}"
    busy = f"  (busy: others had {max(result['others'].values()):.0%} of the CPU)" if result["busy"] else ""
    return f"{result['units'] / result['seconds']:.4g} {result['unit']}/s{busy}"


def once(case: Case, settings: Settings) -> dict[str, Any]:
    """One repetition in a fresh process: its sample, or {"failed": why} or {"skipped": why}."""
    order: dict[str, Any] = {
        "work": case.work, "options": case.options, "seconds": settings.seconds, "patience": settings.patience
    }  # fmt: skip
    if case.threads is not None:
        order["cpus"] = sorted(os.sched_getaffinity(0))[: case.threads]
    # -P: no checkout shadows the package.
    command = [case.python, "-P", "-c", "from metaqap_fast.bench.job import main; main()"]
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True, errors="replace",
        )  # fmt: skip
    except OSError as error:
        return {"failed": f"{case.python} cannot be run: {error.strerror}"}
    try:
        out, err = process.communicate(json.dumps(order), timeout=case.timeout)
    except subprocess.TimeoutExpired:
        return {"failed": f"stopped after {case.timeout:.0f} s"}
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # also when interrupted, and what the work left behind
        child.end([process])
    try:
        result: dict[str, Any] = json.loads(out)
        return result
    except ValueError:
        return {"failed": _reason(process.returncode, err)}


def _reason(code: int, err: str) -> str:
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    return f"{how}: {lines[-1][:300]}" if lines else how
