"""Does the GPU path hold, and how fast is it: one command for a bare CUDA machine without a network.

    python3 -m metaqap_fast.bench.gpu_acceptance -o results/
    python3 -m metaqap_fast.bench.gpu_acceptance -o results/ --dry-run   # the same steps on a CPU

docs/gpu.md has how to bring what it needs to such a machine. Every step runs in its own process with a limit; the
whole ends within --minutes. Writes `gpu-acceptance-<GPU>.json` and a table, which also says what did not run and why.

Exit status: 0 if every promise was put to the test and held; 1 if one is broken, or no engine runs; 4 if none is
broken, but one was not put to the test (a step failed, or there was no time); 2 for a wrong command line.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from metaqap_fast import child
from metaqap_fast.bench import gpu_promises
from metaqap_fast.bench.gpu_promises import ENGINES, Results, Step
from metaqap_fast.engine import cuda
from metaqap_fast.engine.gpu import tensorrt_build
from metaqap_fast.engine.samples import generated
from metaqap_fast.errors import MetaqapError

FORMAT = 2
KEPT_LINES = 30  # of a failed step's stderr
Settings = dict[str, Any]


def run_step(step: Step, settings: Settings, seconds: float) -> dict[str, Any]:
    """One step in a process of its own: its result, or why there is none and how far it came."""
    order = json.dumps({"step": step.name, "settings": settings, "arguments": step.arguments})
    start = time.monotonic()
    command = [sys.executable, "-P", "-m", "metaqap_fast.bench.gpu_steps"]  # -P: no checkout shadows the package
    with tempfile.TemporaryFile("w+", errors="replace") as out, tempfile.TemporaryFile("w+", errors="replace") as err:
        # A session of its own, so that a step's compilers end with it.
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=out, stderr=err, text=True, start_new_session=True
        )
        try:
            process.communicate(order, timeout=seconds)
            failed = f"ended with status {process.returncode}" if process.returncode else ""
        except subprocess.TimeoutExpired:
            failed = f"stopped after {seconds:.0f} s"
        finally:
            _end(process)
        out.seek(0)
        err.seek(0)
        seen, said = last_object(out.read()), [line for line in err.read().splitlines() if line.strip()]
    outcome: dict[str, Any] = {"seconds": round(time.monotonic() - start, 1)}
    if not failed and seen is not None:
        return {**outcome, "result": seen}
    if process.returncode and process.returncode > 0 and said:
        failed = said[-1][:500]
    return {**outcome, "failed": failed or "gave no result", "partial": seen, "stderr": said[-KEPT_LINES:]}


def last_object(text: str) -> dict[str, Any] | None:
    """The last line that is a JSON object: what a step has found so far. What is no number in it becomes None."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            try:
                return dict(json.loads(line, parse_constant=lambda _: None))
            except ValueError:
                continue
    return None


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        child.end([process])


def measure(
    settings: Settings, steps: list[Step], deadline: float, say: Any = lambda text: print(text, flush=True)
) -> Results:
    """Every step that there is time for, by title."""
    results: Results = {}
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


def make_images(folder: Path, count: int, size: int = 512) -> None:
    """Generated photographs-like JPEGs, some not square and some larger than a view."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, view in enumerate(generated(size, count)):
        image = Image.fromarray(view)
        if i % 8 == 7:
            image = image.resize((3 * size // 2, size + size // 4))
        image.save(folder / f"{i:04d}.jpg", quality=90)


def candidates(names: tuple[str, ...], capability: int | None) -> tuple[list[str], Results]:
    """The engines that should run here, and why the others need not: not installed, or not made for this GPU."""
    found: list[str] = []
    others: Results = {}
    for name in names:
        try:
            if name != "torch":
                tensorrt_build.find(name)
                if name == "tensorrt_rtx" and f"sm{capability}" not in tensorrt_build.RTX_TARGETS:
                    raise MetaqapError(f"TensorRT-RTX does not build for sm{capability}")
            found.append(name)
        except MetaqapError as error:
            others[f"engine {name}"] = {"failed": f"not run: {error}"}
    return found, others


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    start = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("bench/results"))
    parser.add_argument("--photos", type=Path, default=Path("examples"), help="real photographs")
    parser.add_argument("--model", default="default")
    parser.add_argument("--engines", default=",".join(ENGINES), help="the first that runs is measured in full")
    parser.add_argument("--gpu", type=int, default=0)
    parser.add_argument("--images", type=int, help="generated images; 64 by default, 4 in a dry run")
    parser.add_argument("--seconds", type=float, help="for each timing; 4 by default, 0.5 in a dry run")
    parser.add_argument("--minutes", type=float, default=7.5)
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, with the torch engine")
    parser.add_argument("--steps", default="", help="of the plan, only those whose title begins with one of these")
    options = parser.parse_args(arguments)
    if not options.photos.is_dir():
        parser.error(f"no such folder: {options.photos}. Name photographs with --photos; a checkout has examples/")
    gpu = None if options.dry_run else cuda.pick(options.gpu, cuda.gpus())
    names = tuple(options.engines.split(",")) if gpu else ("torch",)
    engines, others = candidates(names, gpu.capability if gpu else None)
    deadline, wanted = start + 60 * options.minutes, tuple(options.steps.split(","))
    with tempfile.TemporaryDirectory(prefix="gpu-acceptance-work-") as work:
        make_images(Path(work, "generated"), options.images or (64 if gpu else 4))
        settings = {
            "model": options.model, "work": work, "generated": str(Path(work, "generated")),
            "photos": str(options.photos.resolve()), "gpu": None if gpu is None else gpu.index,
            "seconds": options.seconds or (4.0 if gpu else 0.5),
        }  # fmt: skip
        steps = gpu_promises.contacts(engines)
        results = measure(settings, steps, deadline)
        chosen = [step for step in gpu_promises.plan(gpu_promises.ran(results)) if step.title.startswith(wanted)]
        results |= measure(settings, chosen, deadline) | others
    document = {
        "format": FORMAT,
        "machine": gpu.name if gpu else "dry run on a CPU: says nothing about a GPU",
        "gpu": asdict(gpu) if gpu else None,
        "dry_run": options.dry_run,
        "seconds": round(time.monotonic() - start, 1),
        "checks": gpu_promises.checks([*steps, *chosen], results, options.dry_run),
        "steps": results,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^A-Za-z0-9]+", "-", gpu.name).strip("-").lower() if gpu else "dry-run"
    stem = options.output / f"gpu-acceptance-{slug}"
    stem.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
    stem.with_suffix(".txt").write_text(gpu_promises.table(document))
    print("\n" + gpu_promises.table(document))
    return gpu_promises.exit_status(document["checks"])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MetaqapError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
