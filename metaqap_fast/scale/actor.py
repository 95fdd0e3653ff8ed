"""What runs on a Ray worker: a Scorer on the GPU or the CPUs that Ray has assigned to it, and on no others."""

from __future__ import annotations

import json
import math
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metaqap_fast import __version__
from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.input import Source
from metaqap_fast.input.distant import Item
from metaqap_fast.input.members import Archive, Options
from metaqap_fast.run import about, stamped
from metaqap_fast.scale.pieces import PieceSource
from metaqap_fast.scorer import Scorer
from metaqap_fast.scores.identity import difference
from metaqap_fast.scores.parts import Parts
from metaqap_fast.summary import Summary

Choose = Callable[[Source], Source]


class Actor:
    """What Ray keeps on a worker, from the first piece of work to the last.

    The Scorer is made with the first piece of work: an error is then the job's. In a constructor it would be the
    actor's, which Ray would start again and again.

    Args:
        options: of `Scorer`.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = dict(options)
        self._made: Scorer | None = None
        self._claims: list[socket.socket] = []

    def scorer(self) -> Scorer:
        """The worker's scorer.

        Raises:
            MetaqapError: see `Scorer`.
        """
        if self._made is None:
            import ray

            resources: dict[str, float] = ray.get_runtime_context().get_assigned_resources()
            if resources.get("GPU") and self._options.get("device", "auto") == "auto":
                self._options["device"] = "cuda:0"  # the only one that Ray lets it see
            elif cpus := int(resources.get("CPU", 0)):
                self._claims = claim_cores(cpus)
            self._made = Scorer(**self._options)
        return self._made


class Work(Actor):
    """What runs on a worker.

    Args:
        options: of `Scorer`.
        attributes: of the output, see `Store.attributes`.
        tables: how tables are read.
        choose: takes some of a source, as the user wants.
        done: Ray's reference to the rows that are there already.
        where: number of the parts, and of rows in each.
        retry_failed: see `run`.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        attributes: Mapping[str, Any],
        tables: Options,
        choose: Choose,
        done: Any,
        where: Mapping[str, Any],
        retry_failed: bool,
    ) -> None:
        super().__init__(options)
        self._attributes, self._tables, self._choose = attributes, tables, choose
        self._done, self._where, self._retry = done, where, retry_failed

    def __call__(self, block: Mapping[str, Any]) -> Iterator[dict[str, list[Any]]]:
        """Parts and what is to be said of them, one after the other, for a block of pieces."""
        import ray

        scorer, done = self.scorer(), ray.get(self._done)
        agree(scorer.describe(), self._attributes)
        for piece in block["piece"]:
            source = self._choose(PieceSource(piece, self._tables))
            done.named = np.zeros(len(done), np.bool_)
            listed, scored, made = Summary(), Summary(), list[Path]()
            with tempfile.TemporaryDirectory() as folder:
                # By a number of rows alone, not by time: if a worker is lost, another one makes the same parts.
                parts = Parts(
                    Path(folder), self._attributes, **self._where, seconds_per_part=math.inf, committed=made.append
                )
                for row in stamped(scorer, listed.missing(source, done, self._retry)):
                    parts.add(row)
                    scored.take(row)
                    if made:
                        yield _message(made.pop(), {**scored.told(), **listed.told_of_listing()})
                        scored = Summary()
                parts.commit()
                told = {**scored.told(), **listed.told_of_listing()}
                told |= {"left_out": dict(source.left_out), "named": np.flatnonzero(done.named).tolist()}
                yield _message(made.pop() if made else None, told)


def _message(part: Path | None, told: Mapping[str, Any]) -> dict[str, list[Any]]:
    name, data = (part.name, part.read_bytes()) if part else ("", b"")
    return {"name": [name], "part": [data], "told": [json.dumps(told)]}


def agree(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises UsageError if a worker would give other scores than the first one."""
    if name := difference(found, wanted):
        raise UsageError(
            f"it would not give the scores of the first worker: {name} is {found.get(name)!r}, not "
            f"{wanted.get(name)!r}. Name --engine and --precision, and install the same packages everywhere"
        )


def look(options: Mapping[str, Any], items: Sequence[Item]) -> dict[str, Any]:
    """Runs on a worker before any work: what it is, and what it sees of some items of the source."""
    import ray

    scorer = Actor(options).scorer()
    found = {
        "version": __version__,
        "node": ray.util.get_node_ip_address(),
        "about": about(scorer),
        "description": scorer.describe(),
        "seen": [seen(item) for item in items],
    }
    scorer.close()
    return found


def seen(item: Item) -> int:
    """See `Stamp.code`."""
    try:
        return (item.open() if isinstance(item, Archive) else item).stamp().code
    except (OSError, MetaqapError):
        return 0


def claim_cores(count: int) -> list[socket.socket]:
    """Let this thread, and what it starts, run on so many cores that no other actor on this machine has claimed.

    Ray counts cores but binds nothing to them, and each of our libraries starts as many threads as it may use cores.
    A claim is a name that only one process at a time can have; it goes with the process, however that ends. Where all
    cores are claimed nothing is bound.

    Returns:
        the claims, to be kept.
    """
    cores, claims = [], []
    for core in sorted(os.sched_getaffinity(0)):
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0metaqap-fast core {core}")  # in no file system
        except OSError:
            claim.close()
            continue
        cores.append(core)
        claims.append(claim)
        if len(cores) == count:
            break
    if cores:
        os.sched_setaffinity(0, cores)
    return claims
