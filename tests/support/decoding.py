"""A decoder in a process of its own, which has bugs if a test wants them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from metaqap_fast.decode import DecodeOptions, Limits
from metaqap_fast.decode.local import LocalDecoder
from metaqap_fast.decode.supervisor import Supervisor
from metaqap_fast.errors import Status
from metaqap_fast.records import Decoded, Encoded

S = 64
SUPPORT = Path(__file__).parent  # where hostile_worker is


def supervised(max_seconds: float = 60, max_memory: int = 1 << 32, **options: int) -> Supervisor:
    return Supervisor(DecodeOptions(S, **options), Limits(max_seconds, max_memory))


def hostile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders that are started from now on have the bugs of hostile_worker.py."""
    monkeypatch.setattr("metaqap_fast.decode.supervisor.MODULE", "hostile_worker")


@cache
def views_of(data: bytes) -> NDArray[np.uint8]:
    """By the decoder in this process."""
    return next(LocalDecoder(DecodeOptions(S)).stream([Encoded(b"", data)])).views


def statuses(results: Sequence[Decoded]) -> list[Status]:
    return [result.error.status if result.error else Status.ok for result in results]
