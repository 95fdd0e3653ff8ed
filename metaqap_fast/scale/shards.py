"""Several devices: a process on each, which asks for images of one listing as it gets through them.

The parent lists the source and owns the output, its lock and its folder of parts. The processes (`process`) write
parts there as one process does, and the parent merges them: a run that was interrupted on several devices may be
resumed on one. Both ends talk in lines of JSON:

    to a process     its scorer's options; where parts go; then, each time it has asked, some entries, and at last none
    from it          {"ready", "about"}, {"more"}, {"part"}, {"counts"}; its last word has "finished" or "error"
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from metaqap_fast import child, signals
from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.input import Source
from metaqap_fast.input.told import told
from metaqap_fast.options import ROWS_PER_PART, OutputMode, Shard
from metaqap_fast.records import Entry
from metaqap_fast.run import attributes_of, finish
from metaqap_fast.scores.claim import Claim
from metaqap_fast.scores.identity import difference
from metaqap_fast.scores.store import Store
from metaqap_fast.summary import Summary

BLOCK = 64  # entries handed over at once
SECONDS_TO_COMMIT = 30.0  # for a process that is told to stop
SECONDS_TO_LEAVE = 5.0  # for one that has said its last word
SECONDS_TO_BE_HEARD = 5.0  # for the last words of one that is gone
TICK = 0.2


def run_shards(
    devices: Sequence[str],
    source: Source,
    output: str | os.PathLike[str] | Claim,
    mode: OutputMode,
    options: Mapping[str, Any],
    on_row: Callable[[Summary], None] = lambda _: None,
    on_start: Callable[[Mapping[str, Any]], None] = lambda _: None,
    rows_per_part: int = ROWS_PER_PART,
    retry_failed: bool = False,
    prune: bool = False,
    moved: bool = False,
    shard: Shard | None = None,
    summary: Summary | None = None,
) -> Summary:
    """Score a source on several devices into one file.

    Args:
        devices: one process for each; a device may be named twice.
        source, output, mode, rows_per_part, retry_failed, prune, moved, shard, summary: as in `run`.
        options: of `Scorer`, without the device.
        on_row: called every now and then.
        on_start: called for each process, once all are ready, with what `about` says of its scorer.

    Raises:
        UsageError: see `Store`; processes whose scores would differ.
        MetaqapError: a process failed; the message is its own.
    """
    claim = output if isinstance(output, Claim) else Claim(output, mode)
    summary = summary or Summary(os.fspath(claim.output))
    with claim, _Processes(devices, options) as processes:
        ready = processes.start(on_start)
        attributes = {**ready[0], "device": ", ".join(dict.fromkeys(str(each["device"]) for each in ready))}
        summary.about = attributes
        store = Store(claim, attributes_of(attributes, source, shard), mode, rows_per_part, moved=moved)
        counts: dict[int, Any] = {}
        try:
            summary.resumed(store.done, store.totals)
            where = {"folder": os.fspath(store.parts), "attributes": store.attributes, "number": store.number}
            entries = summary.missing(source, store.done, retry_failed)
            for index, message in processes.work(entries, {**where, "rows_per_part": rows_per_part}):
                if "part" in message:
                    store.adopt(store.parts / message["part"])
                if "counts" in message:
                    counts[index] = message["counts"]
                    summary.join(counts.values())
                    on_row(summary)
            finish(store, summary, source, prune)
        except BaseException:
            processes.stop()
            for index, message in processes.last_words():  # what they committed when they were stopped
                if "counts" in message:
                    counts[index] = message["counts"]
                    summary.join(counts.values())
            raise
        finally:
            processes.stop()  # before the output's lock is given back
            store.close()
    return summary


def cores(index: int, count: int) -> list[int]:
    """A process's share of the cores: each starts as many threads as it has, of several libraries."""
    there = sorted(os.sched_getaffinity(0))
    each = max(1, len(there) // count)
    return sorted({there[place % len(there)] for place in range(index * each, (index + 1) * each)})


class _Processes:
    """The processes, from their start to their end."""

    def __init__(self, devices: Sequence[str], options: Mapping[str, Any]) -> None:
        self._devices = devices
        self._heard: queue.Queue[tuple[int, dict[str, Any] | Exception]] = queue.Queue()
        self._entries: Iterator[Entry] = iter(())
        self._dealing = threading.Lock()
        self._over: set[int] = set()  # those that have said their last word
        self._gone: dict[int, float] = {}  # when others were found to be
        self._listeners: list[threading.Thread] = []
        command = child.command("from metaqap_fast.scale.process import main; main()")
        self._all = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in devices]
        for index, device in enumerate(devices):
            # On a CPU engines share the cores better than we do.
            share = cores(index, len(devices)) if device.startswith("cuda") else None
            self._tell(index, {"options": {**options, "device": device}, "cores": share})
            self._listeners.append(
                threading.Thread(target=self._listen, args=(index,), daemon=True, name=f"shard-{index}")
            )
            self._listeners[-1].start()

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, on_start: Callable[[Mapping[str, Any]], None]) -> list[dict[str, Any]]:
        """Wait until each has its model; what their scorers say of themselves (`Scorer.describe`).

        Raises:
            MetaqapError: one cannot start.
            UsageError: their scores would differ.
        """
        heard: dict[int, dict[str, Any]] = {}
        while len(heard) < len(self._all):
            index, message = self._next()
            heard[index] = message
        found = [heard[index]["ready"] for index in range(len(self._all))]
        first = found[0]
        for index in range(1, len(self._all)):
            if name := difference(found[index], first):
                raise UsageError(
                    f"{self._devices[0]} and {self._devices[index]} would give different scores: {name} "
                    f"{first.get(name)!r} and {found[index].get(name)!r}. Name --engine and --precision"
                )
        for index in range(len(self._all)):  # not before: where one cannot start, nobody need read what the others are
            on_start(heard[index]["about"])
        return found

    def work(self, entries: Iterable[Entry], where: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Hand entries out; what the processes say, until all have finished.

        Raises:
            MetaqapError: one has failed.
        """
        self._entries = iter(entries)
        for index in range(len(self._all)):
            self._tell(index, where)
        while len(self._over) < len(self._all):
            index, message = self._next()
            if "finished" in message:
                self._over.add(index)
            yield index, message

    def stop(self) -> None:
        """End them: what still works commits first, what has said its last word has nothing left to do."""
        with signals.handled(lambda *_: None):  # a second Ctrl-C must not cost what they commit
            for index, process in enumerate(self._all):
                if index not in self._over and process.poll() is None:
                    process.terminate()
            child.end([p for i, p in enumerate(self._all) if i not in self._over], SECONDS_TO_COMMIT)
            child.end([p for i, p in enumerate(self._all) if i in self._over], SECONDS_TO_LEAVE)

    def last_words(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """What they have said until their end and nobody has asked for."""
        deadline = time.monotonic() + SECONDS_TO_BE_HEARD
        for thread in self._listeners:
            thread.join(max(0.0, deadline - time.monotonic()))
        while not self._heard.empty():
            index, message = self._heard.get()
            if not isinstance(message, Exception):
                yield index, message

    def _next(self) -> tuple[int, dict[str, Any]]:
        """The next message; an error of one of them, or its end, is raised."""
        while True:
            for index, process in enumerate(self._all):
                # Its pipe may be held open by what it has left behind: not to hear its end proves nothing.
                if index not in self._over and process.poll() is not None:
                    since = self._gone.setdefault(index, time.monotonic())
                    if time.monotonic() - since > SECONDS_TO_BE_HEARD:
                        raise self._ended(index)
            try:
                index, message = self._heard.get(timeout=TICK)
            except queue.Empty:
                continue
            if isinstance(message, Exception):
                raise message
            if "error" in message:
                self._over.add(index)
                kind = UsageError if message["exit_code"] == UsageError.exit_code else MetaqapError
                error = kind(f"{self._devices[index]}: {message['error']}")
                error.exit_code = message["exit_code"]
                raise error
            if message:
                return index, message
            if index not in self._over:
                raise self._ended(index)

    def _ended(self, index: int) -> MetaqapError:
        child.end([self._all[index]], SECONDS_TO_LEAVE)
        return MetaqapError(child.ended(self._devices[index], self._all[index].poll()))

    def _listen(self, index: int) -> None:
        """In a thread for each: what it says goes to whoever waits, and it gets what it asks for."""
        says = self._all[index].stdout
        assert says is not None
        try:
            for line in says:
                if not line.endswith(b"\n"):  # killed in the middle of it
                    break
                message = json.loads(line)
                if "more" in message:
                    self._tell(index, self._deal())
                else:
                    self._heard.put((index, message))
        except Exception as error:  # noqa: BLE001 -- from the listing; the main thread raises it
            self._heard.put((index, error))
        self._heard.put((index, {}))

    def _deal(self) -> list[list[Any]]:
        with self._dealing:
            return [told(entry) for entry in islice(self._entries, BLOCK)]

    def _tell(self, index: int, message: Any) -> None:
        says = self._all[index].stdin
        assert says is not None
        rest = memoryview(json.dumps(message).encode() + b"\n")
        try:
            while rest:
                rest = rest[os.write(says.fileno(), rest) :]
        except OSError:
            pass  # it is gone, which is noticed where its words are awaited
