"""Several GPUs: one process for each device, every n-th image of the sorted listing, one score file at the end.

A process writes a score file of its own beside the output (`scores.h5.shard-0-of-2`), with its own committed
parts. The parent starts them, adds up their progress, and merges their files to the one that a single process
gives. A process that fails stops the others after their next commit; what is committed stays for `--resume`.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from metaqap_fast import signals
from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.gpu_errors import GpuLost
from metaqap_fast.input.files import File, Listing
from metaqap_fast.options import OutputMode
from metaqap_fast.run import Summary, run
from metaqap_fast.scores.probe import try_out
from metaqap_fast.scores.store import Store, check_output
from metaqap_fast.scores.table import ScoreTable

SECONDS_TO_COMMIT = 30.0


class Share(Listing):
    """Entries `index`, `index + count`, ... of a listing; those of a file that is there already are left out."""

    def __init__(self, sources: Sequence[str], index: int, count: int, done: frozenset[bytes] = frozenset()) -> None:
        super().__init__(sources)
        self._index, self._shares, self._done = index, count, done

    def __iter__(self) -> Iterator[File]:
        for place, entry in enumerate(super().__iter__()):
            if place % self._shares == self._index and entry.key not in self._done:
                yield entry


def shard_path(output: str | os.PathLike[str], index: int, count: int) -> Path:
    """Where a process writes."""
    path = Path(output)
    return path.with_name(f"{path.name}.shard-{index}-of-{count}")


def run_shards(
    devices: Sequence[str],
    sources: Sequence[str],
    output: str,
    mode: OutputMode,
    options: Mapping[str, Any],
    on_row: Callable[[Summary], None] = lambda _: None,
    saving: Mapping[str, Any] | None = None,
) -> Summary:
    """Score a listing on several devices into one file.

    Args:
        devices: one process for each; a device may be named twice.
        sources, output, mode: as in `run`.
        options: of `Scorer`, without the device.
        on_row: as in `run`.
        saving: as `rows_per_part` and `retry_failed` of `run`.

    Raises:
        UsageError: standard input as a source, shards of another number of devices.
        MetaqapError: a process failed; the message is its own.
    """
    if any(source == "@-" for source in sources):
        raise UsageError("a list on standard input cannot be shared by several devices: write it to a file")
    check_output(output, mode)
    if mode == "resume":
        try_out(output)
    count = len(devices)
    paths = [shard_path(output, index, count) for index in range(count)]
    _check_others(output, paths, mode)
    orders = [
        {"sources": list(sources), "output": str(path), "mode": mode, "final": str(output), "index": index,
         "count": count, "options": {**options, "device": device}, "saving": dict(saving or {})}
        for index, (device, path) in enumerate(zip(devices, paths, strict=True))
    ]  # fmt: skip
    start = time.monotonic()
    summary = Summary(os.fspath(output))
    _supervise(orders, summary, start, on_row)
    merged = _merge(paths, output, mode, saving or {})
    merged.seconds = time.monotonic() - start
    merged.skipped = summary.skipped
    for path in paths:
        path.unlink()
    return merged


def _check_others(output: str, paths: Sequence[Path], mode: OutputMode) -> None:
    """Shards that this run would not take over are rows that would be lost or stay behind."""
    found = sorted(
        {Path(str(p).removesuffix(".parts")) for p in Path(output).parent.glob(f"{Path(output).name}.shard-*")}
    )
    others = [path for path in found if path not in paths]
    if others and mode != "overwrite":
        number = others[0].name.rpartition("-")[2]
        raise UsageError(f"{others[0]} is of a run on {number} devices: resume with as many, or --overwrite")
    for path in others:
        path.unlink(missing_ok=True)
        shutil.rmtree(f"{path}.parts", ignore_errors=True)
    if found and mode == "new":
        raise UsageError(f"{found[0]} holds rows of an interrupted run; give --resume or --overwrite")


def _supervise(
    orders: Sequence[Mapping[str, Any]], summary: Summary, start: float, on_row: Callable[[Summary], None]
) -> None:
    command = [sys.executable, "-m", "metaqap_fast.scale.shards"]
    said: queue.Queue[tuple[int, dict[str, Any]]] = queue.Queue()
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in orders]
    readers = []
    for index, (process, order) in enumerate(zip(processes, orders, strict=True)):
        assert process.stdin is not None
        process.stdin.write(json.dumps(order))
        process.stdin.close()
        readers.append(threading.Thread(target=_listen, args=(process, index, said), daemon=True))
        readers[-1].start()
    latest: dict[int, dict[str, Any]] = {}
    try:
        while any(reader.is_alive() for reader in readers) or not said.empty():
            try:
                index, message = said.get(timeout=0.2)
            except queue.Empty:
                continue
            if "error" in message:
                kind = UsageError if message["exit_code"] == UsageError.exit_code else MetaqapError
                error = kind(f"{orders[index]['options']['device']}: {message['error']}")
                error.exit_code = message["exit_code"]
                raise error
            latest[index] = message
            summary.statuses = sum((Counter(m["statuses"]) for m in latest.values()), Counter[str]())
            summary.skipped = max(m["skipped"] for m in latest.values())  # each process sees the whole listing
            summary.seconds = time.monotonic() - start
            on_row(summary)
    finally:
        _stop(processes)
    for process, order in zip(processes, orders, strict=True):
        if process.returncode:
            raise MetaqapError(
                f"the process on {order['options']['device']} ended with status {process.returncode}. "
                "Rows committed so far are safe; go on with --resume"
            )


def _listen(process: subprocess.Popen[str], index: int, said: queue.Queue[tuple[int, dict[str, Any]]]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        said.put((index, json.loads(line)))
    process.wait()


def _stop(processes: Sequence[subprocess.Popen[str]]) -> None:
    """End what still runs; it commits first."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + SECONDS_TO_COMMIT
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _merge(paths: Sequence[Path], output: str, mode: OutputMode, saving: Mapping[str, Any]) -> Summary:
    """The processes' files as one, rows in the order of a single process's."""
    attributes = ScoreTable.read(paths[0]).attributes
    attributes = {name: value for name, value in attributes.items() if name not in ("format", "format_version")}
    store = Store(output, attributes, mode, **saving)
    summary = Summary(os.fspath(output), done=len(store.done))
    try:
        for path in paths:
            for row in ScoreTable.read(path):
                if row.key not in store.done:
                    store.add(row)
                    summary.take(row)
        store.finish()
    finally:
        store.close()
    return summary


def main() -> None:
    """One process: its order as JSON on standard input, progress as lines of JSON on standard output."""
    order = json.loads(sys.stdin.read())
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints is no progress
    last = 0.0

    def say(summary: Summary, now: bool = False) -> None:
        nonlocal last
        if now or time.monotonic() - last > 0.5:
            last = time.monotonic()
            out.write(json.dumps({"statuses": dict(summary.statuses), "skipped": summary.skipped}) + "\n")

    try:
        if order["options"]["device"].startswith("cuda"):  # on a CPU engines share the cores better than we do
            os.sched_setaffinity(0, cores(order["index"], order["count"]))
        from metaqap_fast.scorer import Scorer

        final = Path(order["final"])
        done: frozenset[bytes] = frozenset()
        if order["mode"] == "resume" and final.exists():
            table, again = ScoreTable.read(final), order["saving"].get("retry_failed", False)
            done = frozenset(key for key, ok in zip(table.keys, table.ok, strict=True) if ok or not again)
        share = Share(order["sources"], order["index"], order["count"], done)
        scorer = Scorer(**order["options"])
        say(run(scorer, share, order["output"], order["mode"], say, **order["saving"], stopped=_stopped), now=True)
        scorer.close()
    except MetaqapError as error:
        out.write(json.dumps({"error": str(error), "exit_code": error.exit_code}) + "\n")
        if isinstance(error, GpuLost):
            signals.leave(error.exit_code)
        sys.exit(error.exit_code)


def cores(index: int, count: int) -> set[int]:
    """The process's share of the cores: each starts as many threads as it has, of several libraries."""
    there = sorted(os.sched_getaffinity(0))
    each = max(1, len(there) // count)
    return {there[place % len(there)] for place in range(index * each, (index + 1) * each)}


def _stopped(error: BaseException) -> None:
    """End at once, with everything committed: closing engine and decoder would take seconds."""
    if isinstance(error, signals.INTERRUPTIONS):
        signals.leave(signals.exit_status(error))


if __name__ == "__main__":
    with signals.as_exceptions():
        main()
