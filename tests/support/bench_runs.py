"""Benchmark runs made up for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metaqap_fast.bench import throughput
from metaqap_fast.bench.runs import Recorder


def record(path: Path, kind: str = "throughput", samples: list[dict[str, Any]] | None = None, **settings: Any) -> Path:
    recorder = Recorder(path, kind, settings)
    for each in samples or []:
        recorder.add(each)
    return recorder.finish()


def samples(case: str, seconds: list[float], busy: list[bool], **labels: Any) -> list[dict[str, Any]]:
    return [
        {
            "case": case, "labels": labels, "unit": "images", "units": 100, "calls": 1, "seconds": s, "busy": b,
            "cpu_seconds": s, "peak_mb": 100.0, "joules": None, "meter": "no RAPL", "facts": {"engine": "openvino"},
        }
        for s, b in zip(seconds, busy, strict=True)
    ]  # fmt: skip


def stage_samples(busy: list[bool], whole: float = 10.5) -> list[dict[str, Any]]:
    every = {"size": "files", "engine": "auto", "precision": "fp32", "batch": None, "threads": None}
    seconds = {"listing": 0.1, "reading": 0.2, "decode": 2.0, "inference": 10.0, "combine": 0.1, "write": 0.1}
    found = []
    for stage, value in {**seconds, "whole": whole}.items():
        labels = {"stage": stage, **{name: every[name] for name in throughput.MATTERS[stage]}}
        found += samples(throughput.title(labels), [value] * len(busy), busy, **labels)
    return found
