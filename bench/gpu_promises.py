"""What the GPU acceptance run does, what it promises, and the verdicts: no measuring in here.

A promise has one of four verdicts. `failed` is also what a value that is no number gets; `did not run` is never
success; `not judged` is of a dry run what says nothing about a GPU: rates, memory, and last bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

ENGINES = ("tensorrt", "tensorrt_rtx", "tensorrt_lean", "torch")
# Largest difference of a score from the CPU's; from bf16 on what is said of the precision, see `engine.deviation`.
LIMITS = {"fp32": 0.005, "fp16": 0.01, "bf16": 0.02, "int8": 0.06, "fp8": 0.15}
# What the first steps compare, with its limit.
FIRST = {
    "first": ("a tiny network's predictions against its pixels' means", 1e-4),
    "first_decoder": ("pixels against the CPU decoder's, mean of 255 levels", 2.0),
}
STEP_SECONDS = 150.0
PASSED, FAILED, MISSING, UNJUDGED = "passed", "failed", "did not run", "not judged"
FAILED_STATUS, INCOMPLETE_STATUS = 1, 4  # exit statuses: a promise is broken; one was not put to the test

Results = dict[
    str, dict[str, Any]
]  # by step title: {"seconds", "result"} or {"seconds", "failed", "partial", "stderr"}


@dataclass(frozen=True)
class Step:
    """One thing to measure; `limit` in seconds."""

    name: str
    arguments: tuple[Any, ...] = ()
    limit: float = STEP_SECONDS

    @property
    def title(self) -> str:
        """As the table shows it."""
        return " ".join([self.name, *map(str, self.arguments)])


def contacts(engines: Iterable[str]) -> list[Step]:
    """The first steps: does the decoder, does each engine run at all. The rest of the plan follows from them."""
    return [Step("environment"), Step("first_decoder"), *(Step("first", (engine,)) for engine in engines)]


def plan(engines: Sequence[str]) -> list[Step]:
    """The steps for the engines that ran, the most important first: what there is no time for is at the end."""
    if not engines:
        return []
    best = engines[0]
    steps = [Step("cpu_scores")]
    steps += [Step("parity", (engine, "fp32")) for engine in engines]
    steps += [Step("parity", (best, "fp16")), Step("speed", (best, "fp16")), Step("eager", limit=90.0)]
    steps += [Step("places", (best, "fp32")), Step("sweep_decoder"), Step("parity", (best, "bf16"))]
    steps += [Step("sweep_batch", (best, "fp16"))]
    steps += [Step("paper", ("torch",))]
    steps += [Step("memory", (best, "fp16"), 240.0)]
    if best != "torch":
        steps += [Step("parity", (best, *rest)) for rest in (("int8",), ("fp8",), ("fp16", "members"))]
    steps += [Step("parity", (engine, "fp16")) for engine in engines[1:]]
    steps += [Step("speed", (engine, "fp16")) for engine in engines[1:]]
    if best != "torch":
        steps += [Step("paper", (best,), 240.0)]  # last but one: building it takes minutes
    return [*steps, Step("speed", (best, "fp32"))]


def ran(results: Results) -> tuple[str, ...]:
    """The engines that passed their first step, in its order."""
    return tuple(title.split()[1] for title, out in results.items() if title.startswith("first ") and "result" in out)


def checks(steps: Iterable[Step], results: Results, dry_run: bool = False) -> list[dict[str, Any]]:
    """The promises of these steps: {"check", "value", "limit", "verdict"}."""
    steps, found = list(steps), list[dict[str, Any]]()

    def check(what: str, title: str, value: Any, limit: float, at_most: bool, gpu_only: bool = False) -> None:
        if "result" not in results.get(title, {}):
            verdict, value = MISSING, None
        elif not isinstance(value, (int, float)) or math.isnan(value):
            verdict, value = FAILED, None
        elif gpu_only and dry_run:
            verdict = UNJUDGED
        else:
            verdict = PASSED if (value <= limit if at_most else value >= limit) else FAILED
        bound = f"{'<=' if at_most else '>='} {limit:g}"
        found.append({"check": what, "value": value, "limit": bound, "verdict": verdict})

    def value(title: str, name: str) -> Any:
        return results.get(title, {}).get("result", {}).get(name)

    for step in steps:
        title = step.title
        if step.name in ("first", "first_decoder"):
            what, limit = FIRST[step.name]
            check(f"{title}: {what}", title, value(title, "max"), limit, True)
            if found[-1]["verdict"] == MISSING:
                found[-1]["verdict"] = FAILED  # it ran, and ended in an error: that is what it was to find out
    if any(step.name == "first" for step in steps) and not ran(results):
        found.append({"check": "an engine runs on this machine", "value": 0, "limit": ">= 1", "verdict": FAILED})
    for step in steps:
        title = step.title
        if step.name == "parity":
            limit = LIMITS[str(step.arguments[1])]
            check(f"{title}: score against the CPU's", title, value(title, "max"), limit, True)
            check(f"{title}: images that fail only here or only there", title, value(title, "differ"), 0, True)
        elif step.name == "places":
            # Of a GPU's kernels: on a CPU torch deals one image out to threads, and rounds by their number.
            what = f"{title}: scores of one view over all places"
            check(what, title, value(title, "distinct"), 1, True, gpu_only=True)
        elif step.name == "memory":
            check(f"{title}: growth of device memory, MB", title, value(title, "growth_mb"), 64, True, gpu_only=True)
    best = fastest(steps, results)
    if best is not None:
        ratio = value(best, "whole_over_slowest_stage")
        check(f"{best}: whole over slowest stage", best, ratio, 0.9, False, gpu_only=True)
        if any(step.name == "eager" for step in steps):
            whole, eager = value(best, "whole"), value("eager", "images_per_second")
            lacking = best if "result" not in results.get(best, {}) else "eager"
            check(
                f"{best}: whole over eager loop", lacking, whole / eager if whole and eager else None, 50, False, True
            )
    papers = [step.title for step in steps if step.name == "paper"]
    if papers:
        title = max(papers, key=lambda title: value(title, "together") or 0.0)
        check("the paper's five CNNs together, images/s", title, value(title, "together"), 1000, False, gpu_only=True)
    return found


def fastest(steps: Iterable[Step], results: Results) -> str | None:
    """The speed step whose whole run was the fastest; the first one if none ran, None if none was planned."""
    titles = [step.title for step in steps if step.name == "speed"]
    return max(titles, key=lambda title: results.get(title, {}).get("result", {}).get("whole") or 0.0, default=None)


def exit_status(checks: Iterable[dict[str, Any]]) -> int:
    """0 if every promise was put to the test and held."""
    verdicts = {entry["verdict"] for entry in checks}
    if FAILED in verdicts or not verdicts:
        return FAILED_STATUS
    return INCOMPLETE_STATUS if MISSING in verdicts else 0


def table(document: dict[str, Any]) -> str:
    """What a person reads."""
    lines = [f"GPU acceptance, {document['machine']}", "", f"{'check':<74} {'value':>10} {'limit':>10}  verdict"]
    for entry in document["checks"]:
        shown = "-" if entry["value"] is None else f"{entry['value']:.4g}"
        verdict = entry["verdict"].upper() if entry["verdict"] == FAILED else entry["verdict"]
        lines.append(f"{entry['check']:<74} {shown:>10} {entry['limit']:>10}  {verdict}")
    lines += ["", "images per second"]
    for title, outcome in document["steps"].items():
        seen = outcome.get("result") or outcome.get("partial") or {}
        rates = {k: v for k, v in seen.items() if isinstance(v, (int, float))}
        if title.split()[0] in ("speed", "eager", "paper", "sweep_batch", "sweep_decoder"):
            lines += [f"  {title + ': ' + name:<58} {rate:12.2f}" for name, rate in rates.items()]
    lost = [f"  {title}: {outcome['failed']}" for title, outcome in document["steps"].items() if "failed" in outcome]
    return "\n".join([*lines, "", "did not run or failed:", *(lost or ["  nothing"])]) + "\n"
