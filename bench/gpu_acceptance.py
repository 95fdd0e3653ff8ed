"""Does the GPU path hold, and how fast is it: one command for a bare CUDA machine without a network.

    python3 -m metaqap_fast.bench.gpu_acceptance -o results/
    python3 -m metaqap_fast.bench.gpu_acceptance -o results/ --dry-run   # the same steps on a CPU, a few seconds each

docs/gpu.md has how to bring what it needs to such a machine. Every step runs in its own process with a limit; the
whole ends within --minutes. Writes `gpu-acceptance-<GPU>.json` and a table, which also says what did not run and why.
Exit status 1 if a check failed.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from metaqap_fast.engine import cuda
from metaqap_fast.engine.deviation import generated
from metaqap_fast.engine.gpu import tensorrt_build
from metaqap_fast.errors import MetaqapError

FORMAT = 1
ENGINES = ("tensorrt", "tensorrt_rtx", "torch")
# Largest difference of a score from the CPU's; int8 is reported against its stated tolerance.
LIMITS = {"fp32": 0.005, "bf16": 0.01, "fp16": 0.01, "int8": 0.06, "fp8": 0.15}
STEP_SECONDS = 150.0


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


def plan(engines: tuple[str, ...]) -> list[Step]:
    """The steps, the most important first: what there is no time for is at the end."""
    best = engines[0]
    steps = [Step("environment"), Step("cpu_scores")]
    steps += [Step("parity", (engine, "fp32")) for engine in engines]
    steps += [Step("parity", (best, "fp16")), Step("speed", (best, "fp16")), Step("eager", limit=90.0)]
    steps += [Step("sweep_decoder"), Step("parity", (best, "bf16")), Step("sweep_batch", (best, "fp16"))]
    steps += [Step("paper", ("torch",))]
    steps += [Step("memory", (best, "fp16"), 240.0)]
    if best != "torch":
        steps += [Step("parity", (best, *rest)) for rest in (("int8",), ("fp8",), ("fp16", "members"))]
    steps += [Step("parity", (engine, "fp16")) for engine in engines[1:]]
    steps += [Step("speed", (engine, "fp16")) for engine in engines[1:]]
    if best != "torch":
        steps += [Step("paper", (best,), 240.0)]  # last but one: building it takes minutes
    return [*steps, Step("speed", (best, "fp32"))]


def checks(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The promises, with what was seen: `passed` is None where a step did not run."""
    found: list[dict[str, Any]] = []

    def check(what: str, value: float | None, limit: float, at_most: bool) -> None:
        passed = None if value is None else bool(value <= limit if at_most else value >= limit)
        bound = f"{'<=' if at_most else '>='} {limit:g}"
        found.append({"check": what, "value": value, "limit": bound, "passed": passed})

    def value(title: str, *names: str) -> Any:
        result: Any = results.get(title, {}).get("result")
        for name in names:
            result = None if result is None else result.get(name)
        return result

    for title in results:
        if title.startswith("parity "):
            precision = title.split()[2]
            check(f"{title}: score against the CPU's", value(title, "max"), LIMITS[precision], at_most=True)
    speeds = [title for title in results if title.startswith("speed ")]
    for title in speeds[:1]:
        check(f"{title}: whole over slowest stage", value(title, "whole_over_slowest_stage"), 0.9, at_most=False)
        whole, eager = value(title, "whole"), value("eager", "images_per_second")
        check(f"{title}: whole over eager loop", whole / eager if whole and eager else None, 50, at_most=False)
    together = [rate for title in results if title.startswith("paper ") and (rate := value(title, "together"))]
    check("the paper's five CNNs together, images/s", max(together, default=None), 1000, at_most=False)
    for title in results:
        if title.startswith("memory "):
            check(f"{title}: growth of device memory, MB", value(title, "growth_mb"), 64, at_most=True)
    return found


def run_step(step: Step, settings: dict[str, Any], seconds: float) -> dict[str, Any]:
    """One step in a process of its own: its result, or why there is none."""
    order = json.dumps({"step": step.name, "settings": settings, "arguments": step.arguments})
    start = time.monotonic()
    command = [sys.executable, "-P", "-m", "metaqap_fast.bench.gpu_steps"]  # -P: no checkout shadows the package
    try:
        done = subprocess.run(command, input=order, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"seconds": round(seconds, 1), "failed": f"stopped after {seconds:.0f} s"}
    out: dict[str, Any] = {"seconds": round(time.monotonic() - start, 1)}
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return {**out, "result": json.loads(lines[-1])}
    reason = [line for line in done.stderr.strip().splitlines() if line.strip()]
    return {**out, "failed": reason[-1][:500] if reason else f"ended with status {done.returncode}"}


def measure(
    settings: dict[str, Any], steps: list[Step], deadline: float, say: Any = lambda text: print(text, flush=True)
) -> dict[str, dict[str, Any]]:
    """Every step that there is time for, by title."""
    results: dict[str, dict[str, Any]] = {}
    for step in steps:
        left = deadline - time.monotonic()
        if left < 10:
            results[step.title] = {"failed": "not run: no time left"}
        else:
            # A dry run is on whatever machine a developer has: only the whole has a limit there.
            results[step.title] = run_step(step, settings, left if settings["gpu"] is None else min(step.limit, left))
        outcome = results[step.title]
        say(f"{step.title:<38} {outcome.get('failed') or json.dumps(outcome['result'])[:200]}")
    return results


def table(document: dict[str, Any]) -> str:
    """What a person reads."""
    lines = [f"GPU acceptance, {document['machine']}", "", f"{'check':<66} {'value':>10} {'limit':>10}  verdict"]
    for entry in document["checks"]:
        shown = "-" if entry["value"] is None else f"{entry['value']:.4g}"
        verdict = {True: "passed", False: "FAILED", None: "did not run"}[entry["passed"]]
        lines.append(f"{entry['check']:<66} {shown:>10} {entry['limit']:>10}  {verdict}")
    lines += ["", "images per second"]
    for title, outcome in document["steps"].items():
        rates = {k: v for k, v in outcome.get("result", {}).items() if isinstance(v, (int, float))}
        if title.split()[0] in ("speed", "eager", "paper", "sweep_batch", "sweep_decoder"):
            lines += [f"  {title + ': ' + name:<58} {rate:12.2f}" for name, rate in rates.items()]
    lost = [f"  {title}: {outcome['failed']}" for title, outcome in document["steps"].items() if "failed" in outcome]
    return "\n".join([*lines, "", "did not run or failed:", *(lost or ["  nothing"])]) + "\n"


def make_images(folder: Path, count: int, size: int = 512) -> None:
    """Generated photographs-like JPEGs, some not square and some larger than a view."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, view in enumerate(generated(size, count)):
        image = Image.fromarray(view)
        if i % 8 == 7:
            image = image.resize((3 * size // 2, size + size // 4))
        image.save(folder / f"{i:04d}.jpg", quality=90)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    start = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("bench/results"))
    parser.add_argument("--photos", type=Path, default=Path("examples"), help="real photographs")
    parser.add_argument("--model", default="default")
    parser.add_argument("--engines", default=",".join(ENGINES), help="the first that is there is measured in full")
    parser.add_argument("--gpu", type=int, default=0)
    parser.add_argument("--images", type=int, default=64, help="generated images")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each timing")
    parser.add_argument("--minutes", type=float, default=7.5)
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, with the torch engine")
    parser.add_argument("--steps", default="", help="only those whose title begins with one of these")
    options = parser.parse_args(arguments)
    gpu = None if options.dry_run else cuda.pick(options.gpu, cuda.gpus())
    engines = tuple(options.engines.split(",")) if gpu else ("torch",)
    found = tuple(name for name in engines if name == "torch" or _there(name))
    chosen = [step for step in plan(found or ("torch",)) if step.title.startswith(tuple(options.steps.split(",")))]
    with tempfile.TemporaryDirectory(prefix="gpu-acceptance-work-") as work:
        make_images(Path(work, "generated"), options.images)
        settings = {
            "model": options.model, "work": work, "generated": str(Path(work, "generated")),
            "photos": str(options.photos.resolve()), "gpu": None if gpu is None else gpu.index,
            "seconds": options.seconds,
        }  # fmt: skip
        results = measure(settings, chosen, start + 60 * options.minutes)
    for name in engines:
        if name not in found:
            results[f"engine {name}"] = {"failed": "not run: not installed"}
    document = {
        "format": FORMAT,
        "machine": gpu.name if gpu else "dry run on a CPU: says nothing about a GPU",
        "gpu": asdict(gpu) if gpu else None,
        "dry_run": options.dry_run,
        "seconds": round(time.monotonic() - start, 1),
        "checks": checks(results),
        "steps": results,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^A-Za-z0-9]+", "-", gpu.name).strip("-").lower() if gpu else "dry-run"
    stem = options.output / f"gpu-acceptance-{slug}"
    stem.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
    stem.with_suffix(".txt").write_text(table(document))
    print("\n" + table(document))
    return 1 if any(entry["passed"] is False for entry in document["checks"]) and not options.dry_run else 0


def _there(name: str) -> bool:
    try:
        tensorrt_build.find(name)
    except MetaqapError as error:
        print(f"{name}: {error}", flush=True)
        return False
    return True


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MetaqapError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
