"""Fixtures of the tests of the engines."""

from __future__ import annotations

from pathlib import Path

import pytest

import fake_tensorrt


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is compiled yet, nor asked of the library that stands in for TensorRT."""
    monkeypatch.setenv("METAQAP_FAST_CACHE", str(tmp_path / "cache"))
    fake_tensorrt.calls.clear()
