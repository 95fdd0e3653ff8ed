"""The native engine beside what its instructions can do: works for `job`, and the table that comes of them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from metaqap_fast.bench.figures import Figures, NoFigure, Section, cell
from metaqap_fast.bench.job import NotInstalled, Work
from metaqap_fast.bench.stats import Interval, ratio
from metaqap_fast.engine.native.engine import kernels
from metaqap_fast.engine.native.isa import path
from metaqap_fast.engine.native.layout import aligned_bytes
from metaqap_fast.engine.native.measure import parts
from metaqap_fast.engine.native.measure import peak as products
from metaqap_fast.engine.native.reader import Unsuited
from metaqap_fast.engine.samples import generated
from metaqap_fast.model import bundle as bundles

Options = dict[str, Any]
ROUNDS = 2_000_000
VIEWS = 4  # of each thread, in one call
GIGA = 1e9


def peak(options: Options) -> Work:
    """Products of registers alone on every CPU at once, by the instructions of the path that runs: operations."""
    isa, precision = _path(options)
    threads = len(os.sched_getaffinity(0))
    if not products(isa, precision, 1):
        raise NotInstalled(f"{isa.name} has no loop that measures its peak")
    pool = ThreadPoolExecutor(threads)

    def work() -> float:
        return sum(pool.map(lambda _: products(isa, precision, ROUNDS), range(threads)))

    return Work(work, work, pool.shutdown, unit="operations", facts={"path": isa.name})


def times(options: Options) -> Work:
    """Views through all members on every CPU at once, by a clock; facts: each kind of part's operations and seconds."""
    isa, precision = _path(options)
    bundle = bundles.load(options["model"])
    try:
        members = kernels(bundle, isa, precision)
    except Unsuited as error:
        raise NotInstalled(f"the native engine does not run this model: {error}") from None
    threads, views = len(os.sched_getaffinity(0)), generated(bundle.view_size, VIEWS)
    memory = [aligned_bytes(max(member.workspace for member in members)) for _ in range(threads)]
    pool = ThreadPoolExecutor(threads)
    kinds: dict[str, list[float]] = {}
    facts: dict[str, Any] = {"path": isa.name, "kinds": kinds}

    def one(thread: int) -> list[Any]:
        return [part for view in views for member in members for part in parts(member, view, memory[thread])]

    def work() -> float:
        found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for of_thread in pool.map(one, range(threads)):
            for part in of_thread:
                found[part.kind][0] += part.operations
                found[part.kind][1] += part.seconds / threads
        for kind, sums in found.items():
            before = kinds.setdefault(kind, [0.0, 0.0])
            kinds[kind] = [a + float(b) for a, b in zip(before, sums, strict=True)]
        return float(VIEWS * threads)

    def warm() -> None:
        work()
        kinds.clear()

    return Work(work, warm, pool.shutdown, facts=facts)


def _path(options: Options) -> Any:
    precision = options["precision"]
    try:
        return path(precision), precision
    except (Unsuited, KeyError) as error:
        raise NotInstalled(f"the native engine has no path here: {error}") from None


WORKS: dict[str, Callable[[Options], Work]] = {"peak": peak, "times": times}


def section(figures: Figures, precisions: list[str]) -> Section:
    """By precision and kind of part: share of the time, operations a second, share of the peak of its instructions."""
    rows: list[list[Any]] = []
    for precision in precisions:
        try:
            samples = figures.good(f"parts {precision}")
        except NoFigure as reason:
            rows.append([precision, "", "", "", "", str(reason)])
            continue
        isa = samples[0]["facts"]["path"]
        whole = [sum(seconds for _, seconds in sample["facts"]["kinds"].values()) for sample in samples]
        for kind in samples[0]["facts"]["kinds"]:
            done = [sample["facts"]["kinds"][kind] for sample in samples]
            share = ratio([seconds for _, seconds in done], whole).value
            rates = [operations / seconds for operations, seconds in done]
            of_peak = cell(_over_peak, figures, precision, rates) if rates[0] else ""
            rows.append([precision, isa, kind, share, ratio(rates, [GIGA]).value if rates[0] else "", of_peak])
    return Section(
        "The native engine by kind of part",
        ["precision", "path", "part", "share of the time", "Gop/s", "share of the peak"],
        rows,
        "The peak is a loop of the path's own products, from registers alone, on all CPUs. A depthwise convolution in "
        "int8 multiplies 16-bit numbers, of which a register holds half as many.",
    )


def _over_peak(figures: Figures, precision: str, rates: list[float]) -> Interval:
    return ratio(rates, figures.rates(f"peak {precision}"))
