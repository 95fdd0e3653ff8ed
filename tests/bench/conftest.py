"""What the tests of the benchmarks share."""

from __future__ import annotations

from typing import Any

import pytest

from metaqap_fast.bench import idle, sampling
from metaqap_fast.bench.job import NotInstalled, prepare, timed


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repetitions run in this process, without a look at the machine.

    What a process of its own adds is in test_bench.py::test_a_repetition_is_a_process_of_its_own.
    """

    def once(case: sampling.Case, settings: sampling.Settings) -> dict[str, Any]:
        try:
            work = prepare(case.work, case.options)
        except NotInstalled as reason:
            return {"skipped": str(reason)}
        try:
            return timed(work, settings.seconds, settings.patience)
        finally:
            work.close()

    monkeypatch.setattr(sampling, "once", once)
    monkeypatch.setattr(idle, "look", lambda seconds=0: 0.0)
