"""A Ray cluster of this machine for the tests, and what befalls its workers."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from command import run
from metaqap_fast.bench.cluster_rows import RAY


@contextmanager
def another_node(head: str) -> Iterator[subprocess.Popen[bytes]]:
    """A node of one CPU more, which ends with the process."""
    start = ["start", f"--address={head}", "--num-cpus=1", "--disable-usage-stats", "--block"]
    node = subprocess.Popen([*RAY, *start], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield node
    finally:
        lose(node)


def lose(node: subprocess.Popen[bytes]) -> None:
    """As when a machine is switched off: all that the node is of ends at once."""
    if node.poll() is None:
        for process in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    node.wait()


def by_ray(head: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`score` on a cluster."""
    return run("score", *arguments, "--precision", "fp32", "--ray", head)


@contextmanager
def killing_workers(parts: Path, after_parts: Sequence[int]) -> Iterator[list[int]]:
    """Kill a worker whenever so many parts are committed; the processes that were killed."""
    killed: list[int] = []
    over = threading.Event()

    def living() -> list[psutil.Process]:
        """The workers that have not been killed: one that has can still be listed for a while."""
        workers = psutil.process_iter(["cmdline"])
        return [p for p in workers if p.pid not in killed and "ray::MapWorker" in " ".join(p.info["cmdline"] or ())]

    def kill() -> None:
        for count in after_parts:
            while not over.is_set() and len(list(parts.glob("part-*.h5"))) < count:
                time.sleep(0.02)
            while not over.is_set() and not (workers := living()):
                time.sleep(0.02)
            if not over.is_set():
                killed.append(workers[0].pid)
                workers[0].kill()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()
