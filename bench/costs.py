"""What very many images cost, and which part of the work is the limit: worked out from measured rates.

    python -m metaqap_fast.bench.costs

A run on a cluster is a chain: data are read, decoded and scored by workers, rows collected by the driver, and merged at
the end. All but the last go on at once, so that the slowest of them is the rate of all.
"""

from __future__ import annotations

from dataclasses import dataclass

IMAGE_BYTES = 100_000  # of a photograph of 512 to 1,024 pixels as JPEG, as web data sets have them
ROW_BYTES = 524  # of a row on its way to the driver: measured, a part of 1,000 rows of two members
COMMIT_SECONDS = 0.02  # of a part of 1,000 rows: written and synced, measured on a cloud machine's disk
MERGE_SECONDS = 18.5e-6  # of a row, at the end: measured on an EPYC of 2.6 GHz
PART_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Worker:
    """One core, or a GPU with its cores.

    name: as the tables call it. rate: images a second, decoding and scoring. price: dollars an hour, an assumption.
    """

    name: str
    rate: float
    price: float


# Half of the whole program's rates on two cores (docs/benchmarks.md: throughput, throughput-avx2).
WORKERS = (Worker("core with AMX, bf16", 56.5, 0.04), Worker("core with AVX2, fp32", 7.05, 0.04))


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all workers share: bytes a second of the store, and of the driver's network."""

    store: float = 5e9  # what a bucket gives one account without asking for more
    network: float = 1.25e9  # 10 Gbit/s


@dataclass(frozen=True, slots=True)
class Plan:
    """A run. rates: images a second that each part of the chain allows. hours: to the finished file."""

    images: int
    workers: int
    rates: dict[str, float]
    scoring_hours: float
    merge_hours: float
    dollars: float

    @property
    def hours(self) -> float:
        """From the start to the finished file."""
        return self.scoring_hours + self.merge_hours

    @property
    def limit(self) -> str:
        """The slowest part of the chain."""
        return min(self.rates, key=lambda name: self.rates[name])


def plan(images: int, workers: int, worker: Worker, around: Surroundings | None = None) -> Plan:
    """What `images` take with so many workers."""
    around = around or Surroundings()
    rates = {
        "reading": around.store / IMAGE_BYTES,
        "scoring": workers * worker.rate,
        "collecting": min(around.network / ROW_BYTES, PART_ROWS / COMMIT_SECONDS),
    }
    scoring = images / min(rates.values()) / 3600
    return Plan(images, workers, rates, scoring, images * MERGE_SECONDS / 3600, scoring * workers * worker.price)


def table() -> str:
    """Markdown: 10^8 and 10^9 images by 10, 100 and 1,000 workers of each kind."""
    lines = [
        "| images | workers | each | hours to score | hours to merge | dollars | the limit |",
        "|---|---|---|---|---|---|---|",
    ]
    for images in (10**8, 10**9):
        for worker in WORKERS:
            for workers in (10, 100, 1000):
                found = plan(images, workers, worker)
                lines.append(
                    f"| {images:.0e} | {workers:,} | {worker.name} | {_short(found.scoring_hours)} | "
                    f"{_short(found.merge_hours)} | {found.dollars:,.0f} | {found.limit} |"
                )
    return "\n".join(lines).replace("1e+08", "10^8").replace("1e+09", "10^9")


def _short(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}"


def workers_before(limit: str, worker: Worker, around: Surroundings | None = None) -> int:
    """How many workers the other parts of the chain can keep busy."""
    return int(plan(1, 1, worker, around).rates[limit] / worker.rate)


if __name__ == "__main__":
    print(table())
