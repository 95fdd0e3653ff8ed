"""The benchmark of sources, small: equal scores under corresponding keys from every kind of source."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from metaqap_fast.bench import sources
from metaqap_fast.bench.s3_server import ENVIRONMENT


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*ENVIRONMENT, "AWS_ENDPOINT_URL", "FSSPEC_S3_ENDPOINT_URL"):
        monkeypatch.setenv(name, "")  # put back at the end: the benchmark sets them


@pytest.mark.full
def test_every_source_gives_the_same_scores() -> None:
    found = sources.compare(images=15, repeats=1)
    assert len(found["same_scores"]) == 8 and all(found["same_scores"].values())
    assert found["beside_the_folder"]["folder"] == 1.0 and os.environ["AWS_ENDPOINT_URL"]


def test_large_sources_are_small_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MEMBERS", 3)
    monkeypatch.setattr(sources, "BIG_MEMBERS", 30)
    found = sources.read_large(sources.many_members(tmp_path), tmp_path / "a.h5")
    assert found["rows"] == found["scored"] == 300
    (tar,) = sources.one_tar(tmp_path)
    assert os.stat(tar).st_size > 29_000_000 and os.stat(tar).st_blocks * 512 < 3_000_000
    found = sources.read_large([tar], tmp_path / "b.h5")
    assert found["rows"] == found["scored"] == 30
