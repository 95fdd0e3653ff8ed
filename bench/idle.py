"""Is the machine doing something else: CPU time that neither idled nor went to our own processes.

A repetition counts only if others used less than LIMIT of the CPUs before, during and after it. Both are looked at:
the CPUs that we may run on, and all of them, for they share memory, cache and clock.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

LIMIT = 0.05  # share of CPU time
LOOK = 0.5  # seconds
PATIENCE = 10.0  # seconds to wait for a machine to calm down before a repetition
TICKS = os.sysconf("SC_CLK_TCK")
BUSY = (0, 1, 2, 7)  # columns of /proc/stat: user, nice, system and stolen by the host; interrupts serve anybody
KERNEL = 2  # the parent of the kernel's threads


@dataclass(frozen=True, slots=True)
class Reading:
    """CPU seconds since the machine started: busy ones of each CPU; ours, see `read`."""

    when: float
    busy: dict[int, float]
    own: float


def parse_stat(text: str) -> dict[int, float]:
    """Busy seconds of each CPU from /proc/stat, see BUSY."""
    busy = {}
    for line in text.splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name != "cpu":
            busy[int(name[3:])] = sum(int(fields[column]) for column in BUSY) / TICKS
    return busy


def processes() -> dict[int, tuple[int, float, float]]:
    """Parent, own CPU seconds and those of children that were waited for, of every process that can be seen."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except (OSError, ValueError):  # it ended
                continue
            own, waited = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
            found[int(folder.name)] = int(fields[1]), own / TICKS, waited / TICKS
    return found


def tree(pid: int, seen: dict[int, tuple[int, float, float]] | None = None) -> list[int]:
    """A process and its descendants."""
    seen = processes() if seen is None else seen
    children: dict[int, list[int]] = {}
    for child, (parent, *_) in seen.items():
        children.setdefault(parent, []).append(child)
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return [each for each in found if each in seen]


def tree_seconds(pid: int, seen: dict[int, tuple[int, float, float]] | None = None) -> float:
    """CPU seconds of a process and its descendants, those that ended and were waited for among them."""
    seen = processes() if seen is None else seen
    return sum(seen[each][1] + seen[each][2] for each in tree(pid, seen))


def read(pid: int | None = None) -> Reading:
    """Now; `pid` is the process whose tree is ours, this one by default.

    The kernel's own threads count as ours: they write to the disk for whoever asked, and others who ask are seen
    themselves.
    """
    busy = parse_stat(Path("/proc/stat").read_text())
    seen = processes()
    named = Path(f"/proc/{KERNEL}/comm")
    hidden = not named.exists() or named.read_text() != "kthreadd\n"  # in a container another process has this number
    kernel = 0.0 if hidden else sum(own for pid_, (parent, own, _) in seen.items() if KERNEL in (pid_, parent))
    return Reading(time.monotonic(), busy, kernel + tree_seconds(pid or os.getpid(), seen))


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
