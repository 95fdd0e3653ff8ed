"""A stage in a thread of its own: its order, how far it runs ahead, and its end. No test waits for a time to pass."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import islice

import pytest

from metaqap_fast import overlap
from metaqap_fast.overlap import Overlap

SOON = 60.0  # seconds, for what happens at once unless the program is wrong


class Watched(threading.Condition):
    """Says when the stage's thread sleeps (it alone waits without a limit), when the consumer does; counts wakings."""

    def __init__(self) -> None:
        super().__init__()
        self.asleep, self.waited_for, self.wakings = threading.Event(), threading.Event(), 0

    def wait(self, timeout: float | None = None) -> bool:
        (self.asleep if timeout is None else self.waited_for).set()
        assert timeout is None or 0 < timeout <= 0.1  # so long an item may be held back
        try:
            return super().wait(timeout)
        finally:
            if timeout is None:
                self.asleep.clear()

    def notify(self, n: int = 1) -> None:
        self.wakings += bool(self._waiters)  # type: ignore[attr-defined]
        super().notify(n)


@pytest.fixture(autouse=True)
def _watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "Condition", Watched)


def changed(stage: Overlap[int]) -> Watched:
    assert isinstance(stage._changed, Watched)
    return stage._changed


def count(made: list[int]) -> Iterator[int]:
    """0, 1, 2, ...; `made` has what has been asked for."""
    while True:
        made.append(len(made))
        yield made[-1]


def noted(made: list[int]) -> Iterator[int]:
    """The first hundred."""
    return islice(count(made), 100)


def test_order_and_depth() -> None:
    made: list[int] = []
    stage = Overlap(noted(made), depth=4)
    assert changed(stage).asleep.wait(SOON)
    assert len(made) == 5  # four in the queue, and the one that does not fit in
    assert list(stage) == list(range(100))
    assert list(stage) == []


@pytest.mark.parametrize(("weight", "ahead"), [(200, 2), (100, 2), (40, 4), (26, 5), (2, 51)])
def test_bytes_ahead(weight: int, ahead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "AHEAD_BYTES", 100)
    made: list[int] = []
    stage = Overlap(noted(made), 1000, lambda _: weight)
    assert changed(stage).asleep.wait(SOON)
    assert len(made) == ahead  # as many as have 100 bytes, and the one that does not fit in
    assert list(stage) == list(range(100))


def test_a_stage_is_ahead_by_a_quarter_of_a_gigabyte() -> None:
    made: list[int] = []
    stage = Overlap(count(made), 1000, lambda _: 1 << 20)
    assert changed(stage).asleep.wait(SOON)
    assert len(made) == 257
    stage.close()


def test_its_thread_is_woken_for_many_items_at_once() -> None:
    made: list[int] = []
    stage = Overlap(noted(made), depth=8)
    watched = changed(stage)
    assert watched.asleep.wait(SOON) and len(made) == 9
    watched.wakings = 0
    found = list(islice(stage, 3))
    assert watched.wakings == 0 and watched.asleep.is_set() and len(made) == 9  # five wait: more than half
    found += islice(stage, 1)
    assert watched.wakings == 1
    assert found + list(stage) == list(range(100))


@pytest.mark.parametrize(("weight", "taken"), [(20, 3), (25, 2)])
def test_heavy_items_wake_it_when_half_of_the_bytes_are_free(
    weight: int, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlap, "AHEAD_BYTES", 100)
    stage = Overlap(iter(range(20)), 1000, lambda _: weight)
    watched = changed(stage)
    assert watched.asleep.wait(SOON)
    watched.wakings = 0
    assert len(list(islice(stage, taken - 1))) == taken - 1 and watched.wakings == 0
    assert next(stage) == taken - 1 and watched.wakings == 1
    assert list(stage) == list(range(taken, 20))


def test_no_item_is_held_back() -> None:
    more, came = threading.Event(), []

    def produce() -> Iterator[int]:
        assert consumer_waits.wait(SOON)
        yield 1
        came.append(more.wait(SOON))

    consumer_waits = threading.Event()
    stage = Overlap(produce(), depth=64)
    changed(stage).waited_for = consumer_waits
    assert next(stage) == 1  # though there may be no other for a long time
    more.set()
    assert list(stage) == [] and came == [True]


def test_exceptions_travel_behind_the_items() -> None:
    def produce() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    stage = Overlap(produce(), depth=2)
    assert next(stage) == 1
    with pytest.raises(ValueError, match="broken"):
        next(stage)
    with pytest.raises(StopIteration):
        next(stage)


def test_the_error_of_closing_its_items_travels_too() -> None:
    class Items:
        def __iter__(self) -> Iterator[int]:
            return iter([1])

        def close(self) -> None:
            raise OSError("cannot close")

    stage = Overlap(Items(), depth=2)
    assert next(stage) == 1
    with pytest.raises(OSError, match="cannot close"):
        next(stage)


def test_closed_it_closes_its_items_and_ends_its_thread() -> None:
    closed = threading.Event()

    def produce() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    stage = Overlap(produce(), depth=1)
    next(stage)
    stage.close()
    assert closed.is_set() and stage.join(0)
    with pytest.raises(StopIteration):  # nor is anything given out that was ready
        next(stage)
    assert not any(thread.name == "overlap-produce" for thread in threading.enumerate())


def test_stopped_by_another_thread_it_gives_its_consumer_up() -> None:
    """The consumer waits for an item, and the thread for something that does not come."""
    never = threading.Event()

    def produce() -> Iterator[int]:
        never.wait(SOON)
        yield 1

    stage = Overlap(produce(), depth=1)
    found: list[int] = []
    consumer = threading.Thread(target=lambda: found.extend(stage))
    consumer.start()
    assert changed(stage).waited_for.wait(SOON)
    stage.stop()
    consumer.join(SOON)
    assert not consumer.is_alive() and not stage.join(0)
    never.set()
    assert stage.join(SOON) and found == []


def test_it_can_be_joined_by_its_own_thread() -> None:
    answers = []

    def produce() -> Iterator[int]:
        answers.append(stages[0].join(SOON))
        yield 1

    stages: list[Overlap[int]] = []
    go = threading.Event()

    def when_known() -> Iterator[int]:
        assert go.wait(SOON)
        yield from produce()

    stages.append(Overlap(when_known(), depth=1))
    go.set()
    assert list(stages[0]) == [1] and answers == [False]


def test_a_stage_that_hangs_keeps_no_program_from_ending() -> None:
    code = (
        "import threading; from metaqap_fast.overlap import Overlap\n"
        "Overlap(iter(threading.Event().wait, 0), 1); print('end')"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=SOON, check=True).stdout == b"end\n"
    )
