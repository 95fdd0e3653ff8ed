"""Which reads on a CUDA stream see writes of another that nothing orders before them?

The real classes run, with tensors on the CPU and streams and events that only note their order (vector clocks). An
operation on a tensor's storage must come after the last write to it: on the same stream, behind an event or a stream
that was waited for, or after the host has waited. With `host=False` the host's waits order nothing but its own reads.
Waits in which CUDA would keep a core busy are counted too.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Clock = dict[str, int]
VIEWS = ("select", "slice", "unbind", "view", "unsqueeze", "alias", "detach", "expand", "as_strided", "_unsafe_view",
         "permute", "flatten", "reshape", "t", "transpose")  # fmt: skip


class Order:
    """What ran where; `races` counts the unordered reads and writes by their description, `spins` the busy waits."""

    def __init__(self, host: bool = True) -> None:
        self.lock, self.local = threading.RLock(), threading.local()
        self.clocks: dict[str, Clock] = {}
        self.writes: dict[int, tuple[str, int, str]] = {}
        self.races: Counter[str] = Counter()
        self.host: Clock = {}
        self.count, self.operations, self.spins, self.counts_host = 0, 0, 0, host
        self.kept: list[torch.Tensor] = []  # so that no address is used twice

    @property
    def current(self) -> str:
        return getattr(self.local, "stream", "default")

    def clock(self, stream: str) -> Clock:
        return self.clocks.setdefault(stream, {})

    def merge(self, into: Clock, other: Clock) -> None:
        for name, number in other.items():
            into[name] = max(into.get(name, 0), number)

    def waited(self, clock: Clock) -> None:
        """By the host."""
        self.merge(self.host if self.counts_host else self.clock("default"), clock)

    def operation(self, name: str, reads: list[torch.Tensor], outs: list[torch.Tensor]) -> None:
        with self.lock:
            self.operations += 1
            stream, written = self.current, {pointer(out) for out in outs}
            clock = self.clock(stream)
            for tensor in reads:
                if pointer(tensor) not in self.writes:
                    continue
                where, number, by = self.writes[pointer(tensor)]
                if where != stream and max(clock.get(where, 0), self.host.get(where, 0)) < number:
                    self.races[f"{name} on {stream} uses what {by} wrote on {where}, unordered"] += 1
            self.count += 1
            clock[stream] = self.count
            self.kept += outs
            for place in written:
                self.writes[place] = (stream, self.count, name)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """In each thread whose operations count."""
        with _Watch(self):
            yield


def pointer(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class _Watch(TorchDispatchMode):
    def __init__(self, order: Order) -> None:
        super().__init__()
        self.order = order

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if name not in VIEWS:
            given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
            made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
            self.order.operation(name, given, made)
        return out


class Stream:
    """torch's, as far as it is used."""

    def __init__(self, order: Order, name: str) -> None:
        self.order, self.name, self.cuda_stream = order, name, 0

    def wait_event(self, event: Event) -> None:
        with self.order.lock:
            self.order.merge(self.order.clock(self.name), event.clock)

    def wait_stream(self, other: Stream) -> None:
        with self.order.lock:
            self.order.merge(self.order.clock(self.name), self.order.clock(other.name))

    def synchronize(self) -> None:
        with self.order.lock:
            self.order.spins += 1
            self.order.waited(self.order.clock(self.name))


class Event:
    """torch's, as far as it is used."""

    def __init__(self, order: Order, blocking: bool = False) -> None:
        self.order, self.blocking, self.clock = order, blocking, Clock()

    def record(self, stream: Stream | None = None) -> None:
        with self.order.lock:
            self.clock = dict(self.order.clock(stream.name if stream else self.order.current))

    def synchronize(self) -> None:
        with self.order.lock:
            self.order.spins += not self.blocking
            self.order.waited(self.clock)

    def query(self) -> bool:
        with self.order.lock:
            self.order.waited(self.clock)
        return True


def stand_in(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams and events that only note their order, in place of torch's."""

    real = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, pin_memory=False, **more: real(*a, **more))

    @contextlib.contextmanager
    def use(stream: Stream) -> Iterator[None]:
        before = order.current
        order.local.stream = stream.name
        try:
            yield
        finally:
            order.local.stream = before

    monkeypatch.setattr(torch.cuda, "stream", use)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: Stream(order, order.current))
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device=None: Stream(order, "default"))
    monkeypatch.setattr(torch.cuda, "Event", lambda blocking=False: Event(order, blocking))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: None)
