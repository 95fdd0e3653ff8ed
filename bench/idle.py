"""Is the machine doing something else: CPU time that neither idled nor went to our own processes.

A repetition counts only if others used less than LIMIT of the CPUs before, during and after it. Both are looked at:
the CPUs that we may run on, and all of them, for they share memory, cache and clock.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

LIMIT = 0.05  # share of CPU time
LOOK = 0.5  # seconds
PATIENCE = 10.0  # seconds to wait for a machine to calm down before a repetition
KTHREADD = 2  # the parent of the kernel's threads
ONLINE = Path("/sys/devices/system/cpu/online")


@dataclass(frozen=True, slots=True)
class Reading:
    """CPU seconds since the machine started: `busy` ones of each CPU, and our `own`, see `read`."""

    when: float
    busy: dict[int, float]
    own: float


def busy() -> dict[int, float]:
    """Seconds that each CPU was busy or its host took from us; interrupts are left out, for they serve anybody."""
    spans = [part.split("-") for part in ONLINE.read_text().split(",")]  # 0-3,6: psutil leaves out what is switched off
    numbers = [number for span in spans for number in range(int(span[0]), int(span[-1]) + 1)]
    times = psutil.cpu_times(percpu=True)
    return {number: t.user + t.nice + t.system + t.steal for number, t in zip(numbers, times, strict=False)}


def tree(pid: int | None = None) -> list[psutil.Process]:
    """A process, this one by default, and its living descendants; none if it has ended."""
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    return []


def tree_seconds(pid: int | None = None) -> float:
    """CPU seconds of a process and its descendants, including those that ended and were waited for."""
    total = 0.0
    for process in tree(pid):
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])  # user and system; then those of children that were waited for
    return total


def read(pid: int | None = None) -> Reading:
    """Now; `pid` is the process whose tree is ours, this one by default.

    The kernel's own threads count as ours: they write to the disk for whoever asked, and others who ask are seen
    themselves.
    """
    now, own = busy(), tree_seconds(pid)
    with suppress(psutil.NoSuchProcess):
        if psutil.Process(KTHREADD).name() == "kthreadd":  # in a container another process has this number
            own += tree_seconds(KTHREADD)
    return Reading(time.monotonic(), now, own)


def others(before: Reading, after: Reading, cpus: set[int] | None = None) -> float:
    """Share of CPU time, 0 to 1, that went to others between two readings: on our CPUs or on all, the larger.

    Args:
        before, after: of the same process.
        cpus: ours; those that this process may run on by default.
    """
    elapsed = after.when - before.when
    cpus = os.sched_getaffinity(0) if cpus is None else cpus
    spent = {cpu: after.busy[cpu] - before.busy[cpu] for cpu in after.busy if cpu in before.busy}
    own = after.own - before.own
    shares = []
    for chosen in (spent, {cpu: value for cpu, value in spent.items() if cpu in cpus}):
        if chosen and elapsed > 0:
            shares.append((sum(chosen.values()) - own) / (elapsed * len(chosen)))
    return min(1.0, max(0.0, *shares)) if shares else 0.0


def look(seconds: float = LOOK) -> float:
    """Share of the CPUs that others use now."""
    before = read()
    time.sleep(seconds)
    return others(before, read())


def wait(patience: float = PATIENCE, limit: float = LIMIT) -> float:
    """Wait until others are quiet, at most `patience` seconds; the last share seen."""
    end = time.monotonic() + patience
    while True:
        share = look()
        if share <= limit or time.monotonic() >= end:
            return share
