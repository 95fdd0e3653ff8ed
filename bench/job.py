"""One repetition in a process of its own: an order on standard input, its sample as JSON on standard output.

    {"work": "stage.decode", "options": {...}, "seconds": 1.0, "cpus": [0, 1], "patience": 10}

The work is prepared and warmed up first; then the machine is looked at, the work timed, and the machine looked at
again. Nothing that a library prints gets into the answer.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from metaqap_fast.bench import idle, usage
from metaqap_fast.errors import MetaqapError

# Modules that hold a table WORKS: name -> function of the options.
MODULES = {name: f"metaqap_fast.bench.{module}" for name, module in (
    ("stage", "stages"), ("limit", "ceilings"), ("peer", "peer_works"), ("scale", "scale"),
)}  # fmt: skip


class NotInstalled(MetaqapError):
    """The work cannot be done here for want of a package: skipped, not failed."""


@dataclass(slots=True)
class Work:
    """Something to time: `run` does it once and gives the units it did, `warm` a little of it.

    `facts` go into the sample when all is done.
    """

    run: Callable[[], float]
    warm: Callable[[], object] = lambda: None
    close: Callable[[], None] = lambda: None
    unit: str = "images"
    facts: dict[str, Any] = field(default_factory=dict)


def prepare(name: str, options: dict[str, Any]) -> Work:
    """The work of that name.

    Raises:
        MetaqapError: as the work; NotInstalled for want of a package.
    """
    kind, _, which = name.partition(".")
    works: dict[str, Callable[[dict[str, Any]], Work]] = importlib.import_module(MODULES[kind]).WORKS
    try:
        return works[which](options)
    except ModuleNotFoundError as error:
        raise NotInstalled(f"{error.name} is not installed") from None


def timed(work: Work, seconds: float, patience: float = idle.PATIENCE) -> dict[str, Any]:
    """Do work again and again for at least `seconds`; rate, costs, and what others did meanwhile."""
    work.warm()
    gc.collect()
    before_share = idle.wait(patience)
    machine, costs = idle.read(), usage.read()
    units, calls, start = 0.0, 0, time.perf_counter()
    while True:
        units += work.run()
        calls += 1
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            break
    spent = usage.spent(costs, usage.read())
    during = idle.others(machine, idle.read())
    shares = {"before": before_share, "during": during, "after": idle.look()}
    return {
        "unit": work.unit,
        "units": units,
        "calls": calls,
        "seconds": elapsed,
        **spent,
        "peak_mb": usage.peak_mb(),
        "others": {name: round(share, 4) for name, share in shares.items()},
        "busy": max(shares.values()) > idle.LIMIT,
        "facts": work.facts,
    }


def main() -> None:
    """Read an order, answer it."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    order = json.loads(sys.stdin.read())
    if order.get("cpus"):
        os.sched_setaffinity(0, order["cpus"])
    try:
        work = prepare(order["work"], order["options"])
        try:
            result = timed(work, order["seconds"], order.get("patience", idle.PATIENCE))
        finally:
            work.close()
    except NotInstalled as error:
        result = {"skipped": str(error)}
    except MetaqapError as error:
        result = {"failed": str(error)}
    except Exception as error:  # noqa: BLE001 -- whatever it is becomes the sample's reason
        result = {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:500]}
    json.dump(result, answer)
    answer.flush()
    os._exit(0)  # libraries that crash while they unload have done their work
