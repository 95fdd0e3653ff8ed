"""Times the kernels on the GPU at hand: ours, torch eager and torch.compile, with the bandwidth that a copy reaches.

    python -m metaqap_fast.bench.kernels [-o FOLDER] [--quick]

Writes `kernels-<GPU>.csv` and `kernels-<GPU>.json` (the same rows with the machine's description). Every time is that
of a forward with gradients for members, weights and intercept (for `soft_spearman`: of the scores): median, 20th and
80th percentile over repetitions, each with a cold L2 cache. `bytes` counts what must cross memory once for the
algorithm: members read twice, their gradient written, MOS read twice and the score written.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metaqap_fast.errors import MetaqapError
from metaqap_fast.kernels import quality_aware_loss, soft_spearman

BATCHES = [1 << power for power in range(8, 23, 2)]  # 256 to 4 Mi
MEMBERS = [3, 5, 8]
PAIRS = [256, 1024, 4096, 8192]
TEMPERATURE = 0.05
WARM_UP, REPEATS = 10, 50
DEVICE = "cuda"
COMPILE: dict[str, Any] = {"dynamic": False}


@dataclass(frozen=True)
class Row:
    """One measurement; milliseconds, bytes, and percent of the copy bandwidth of the same run."""

    operation: str
    implementation: str
    batch: int
    members: int
    median_ms: float
    p20_ms: float
    p80_ms: float
    peak_bytes: int  # allocated above the inputs
    bytes: int
    percent_of_copy: float


def timed(step: Callable[[], object]) -> tuple[list[float], int]:
    """Milliseconds at the 20th, 50th and 80th percentile, and peak bytes above what was allocated before."""
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")  # larger than any L2
    for _ in range(WARM_UP):
        step()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    times = []
    for _ in range(REPEATS):
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        step()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    quantiles = torch.tensor(times).quantile(torch.tensor([0.2, 0.5, 0.8])).tolist()
    return quantiles, peak


def copy_bandwidth() -> float:
    """Bytes per second, read and written, of copying 1 GiB within the GPU's memory."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    (_, median, _), _ = timed(lambda: target.copy_(source))
    return 2 * source.numel() / (median / 1e3)


def _gradients(loss: Callable[..., Tensor], leaves: tuple[Tensor, ...], rest: tuple[Tensor, ...]) -> object:
    return torch.autograd.grad(loss(*leaves, *rest), leaves)


def loss_steps(batch: int, members: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Forward and gradients of `quality_aware_loss` in each implementation, fp32."""
    random = torch.Generator(DEVICE).manual_seed(0)
    p = torch.rand(batch, members, device=DEVICE, generator=random).requires_grad_()
    w = torch.full((members,), 1 / members, device=DEVICE, requires_grad=True)
    b = torch.zeros((), device=DEVICE, requires_grad=True)
    t = torch.rand(batch, device=DEVICE, generator=random)

    def eager(p: Tensor, w: Tensor, b: Tensor, t: Tensor) -> Tensor:
        return quality_aware_loss(p, w, b, t, impl="torch", check=False)[0]

    def ours(p: Tensor, w: Tensor, b: Tensor, t: Tensor) -> Tensor:
        return quality_aware_loss(p, w, b, t, check=False)[0]

    compiled = torch.compile(eager, **COMPILE)
    for name, loss in (("torch-eager", eager), ("torch-compile", compiled), ("triton", ours)):
        yield name, partial(_gradients, loss, (p, w, b), (t,))


def spearman_steps(batch: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Forward and gradient of `soft_spearman` in each implementation, fp32."""
    random = torch.Generator(DEVICE).manual_seed(0)
    t = torch.rand(batch, device=DEVICE, generator=random)
    x = (t + 0.1 * torch.rand(batch, device=DEVICE, generator=random)).requires_grad_()

    def eager(x: Tensor, t: Tensor) -> Tensor:
        return soft_spearman(x, t, TEMPERATURE, impl="torch", check=False)

    def ours(x: Tensor, t: Tensor) -> Tensor:
        return soft_spearman(x, t, TEMPERATURE, check=False)

    compiled = torch.compile(eager, **COMPILE)
    for name, loss in (("torch-eager", eager), ("torch-compile", compiled), ("triton", ours)):
        yield name, partial(_gradients, loss, (x,), (t,))


def measure(batches: list[int], members: list[int], pairs: list[int], bandwidth: float) -> Iterator[Row]:
    """Every row, in the order of the table."""
    work = [("quality_aware_loss", batch, count) for count in members for batch in batches]
    work += [("soft_spearman", batch, 1) for batch in pairs]
    for operation, batch, count in work:
        torch.compiler.reset()
        ranks = operation == "soft_spearman"
        moved = 4 * batch * (3 if ranks else 3 * count + 3)
        for name, step in spearman_steps(batch) if ranks else loss_steps(batch, count):
            (low, median, high), peak = timed(step)
            percent = 100 * moved / (median / 1e3) / bandwidth
            yield Row(operation, name, batch, count, median, low, high, peak, moved, percent)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="metaqap_fast.bench.kernels", description="Time the kernels on a GPU.")
    parser.add_argument("-o", "--output", type=Path, default=Path(), help="folder for the tables")
    parser.add_argument("--quick", action="store_true", help="two sizes of each, to see that it runs")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        raise MetaqapError("the kernel benchmark needs a CUDA GPU")
    gpu = torch.cuda.get_device_name()
    bandwidth = copy_bandwidth()
    print(f"{gpu}: a copy moves {bandwidth / 1e9:.0f} GB/s", file=sys.stderr)
    rows = []
    sizes = ([1024, 1 << 20], [5], [512]) if options.quick else (BATCHES, MEMBERS, PAIRS)
    for row in measure(*sizes, bandwidth):
        rows.append(row)
        print(
            f"{row.operation:<20} {row.implementation:<14} B={row.batch:<8} M={row.members} "
            f"{row.median_ms:9.4f} ms ({row.p20_ms:.4f} to {row.p80_ms:.4f}) "
            f"{row.peak_bytes / 2**20:9.1f} MiB {row.percent_of_copy:5.1f} % of copy",
            flush=True,
        )
    options.output.mkdir(parents=True, exist_ok=True)
    stem = options.output / f"kernels-{re.sub(r'[^A-Za-z0-9]+', '-', gpu).strip('-').lower()}"
    with open(stem.with_suffix(".csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    machine = {
        "gpu": gpu,
        "copy_bytes_per_second": bandwidth,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "repeats": REPEATS,
    }
    stem.with_suffix(".json").write_text(
        json.dumps({**machine, "rows": [asdict(row) for row in rows]}, indent=1) + "\n"
    )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MetaqapError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
