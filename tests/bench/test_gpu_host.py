"""The host's cost for an image on the GPU path is measured on the code that a GPU is scored with."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from metaqap_fast.bench import gpu_host


def test_every_image_is_scored_and_its_cost_is_a_number() -> None:
    found = gpu_host.host_microseconds(images=130, rounds=1)
    assert 10 < found["cpu_us"] < 20_000 and found["wall_us"] > 0 and 90 < found["kB_an_image"] < 130


def test_failed_images_are_no_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(self: object, *_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(gpu_host.Ready, "run", gone)
    with pytest.raises(Exception, match="does not start"):
        gpu_host.host_microseconds(images=8, rounds=1)


def test_a_round_that_others_lengthened_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    monkeypatch.setattr(gpu_host, "_scorer", lambda _: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(gpu_host, "run", lambda *given: done.append(given) or SimpleNamespace(scored=8))
    for enough, rounds in ((0.0, gpu_host.MOST_ROUNDS), (1e9, 1)):
        done.clear()
        gpu_host.host_microseconds(images=8, rounds=1, enough=enough)
        assert len(done) == 1 + rounds
