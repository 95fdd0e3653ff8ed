"""Fixtures of the tests of the decoding process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PIL import Image

from decoding import S, hostile, supervised
from images import encode
from metaqap_fast.decode.supervisor import Supervisor


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    """Of a hostile process, which may take a second for an image."""
    hostile(monkeypatch)
    monkeypatch.setattr("metaqap_fast.child.SECONDS_TO_DIE", 0.5)
    supervisor = supervised(batch_size=4, max_seconds=1, max_memory=1 << 28)
    yield supervisor
    supervisor.close()


@pytest.fixture(scope="session")
def good(photo: Image.Image) -> bytes:
    """A file that any decoder reads."""
    return encode(photo.crop((0, 0, S, S)), "PNG")
