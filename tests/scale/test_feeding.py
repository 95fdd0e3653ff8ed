"""How many processes a GPU gets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from metaqap_fast.engine.cuda import Gpu
from metaqap_fast.errors import MetaqapError
from metaqap_fast.input.ahead import Ahead
from metaqap_fast.input.files import Listing
from metaqap_fast.scale import apart, feeding


def gpu(bandwidth: float, memory: int = 80) -> Gpu:
    return Gpu(0, "NVIDIA Test", 90, memory << 30, "", bandwidth)


@pytest.mark.parametrize(
    ("bandwidth", "memory", "cores", "expected"),
    [
        (3.35e12, 80, 16, 2),  # H100
        (2.04e12, 80, 16, 1),  # A100
        (0.3e12, 24, 64, 1),  # L4
        (4.8e12, 141, 16, 3),  # H200
        (8.0e12, 180, 32, 4),  # B200
        (8.0e12, 180, 8, 2),
        (3.35e12, 80, 7, 1),
        (3.35e12, 10, 16, 1),  # a slice
        (0.0, 80, 64, 1),  # not known
    ],
)
def test_as_many_processes_as_keep_it_busy(bandwidth: float, memory: int, cores: int, expected: int) -> None:
    assert feeding.processes(gpu(bandwidth, memory), cores) == expected


def test_only_auto_is_given_several(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = "metaqap_fast.engine.choice.choose.__defaults__"
    monkeypatch.setattr(defaults, (lambda: [gpu(3.35e12)], lambda name: True))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))
    assert feeding.devices("auto", "auto") == ["cuda:0", "cuda:0"]
    assert feeding.devices("auto", "cuda:0") == ["cuda:0"]
    assert feeding.devices("torch", "cuda:0,cuda:1") == ["cuda:0", "cuda:1"]
    assert feeding.devices("openvino", "auto") == ["auto"] == feeding.devices("nothing", "auto")
    monkeypatch.setattr(apart, "inside", True)  # that is one of them already
    assert feeding.devices("auto", "auto") == ["auto"]


def test_without_a_gpu_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise MetaqapError("no")

    monkeypatch.setattr(feeding, "choose", broken)
    assert feeding.devices("auto", "auto") == ["auto"]


def test_few_images_are_known_to_be_few(tmp_path: Path) -> None:
    for i in range(5):
        (tmp_path / f"{i}.jpg").write_bytes(b"")
    listing = Ahead(Listing([tmp_path]))
    assert listing.few(6) and not listing.few(5)
