"""The benchmark of how damage is ordered: every model is asked about every state of every photograph."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bundles import write_bundle
from metaqap_fast.bench import order
from metaqap_fast.train import rungs
from metaqap_fast.train.damage import KADIS, Step


def darker(view: np.ndarray, steps: Sequence[Step], seed: int) -> np.ndarray:
    """In place of damage: darker with every level."""
    return (view * np.prod([1 - 0.15 * (step.level + 1) for step in steps])).astype(np.uint8)


def test_every_model_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rungs, "damaged", darker)
    monkeypatch.setattr(rungs, "PARTS", {"untouched": range(20)})
    (tmp_path / "photographs").mkdir()
    Image.new("RGB", (512, 512), (200, 200, 200)).save(tmp_path / "photographs/one.png")
    cells = [f"{kind + 1},{level + 1},{4.5 - 0.7 * level}" for kind in range(KADIS) for level in range(5)]
    (tmp_path / "cells.csv").write_text("\n".join(["id,level,mean_opinion", *cells]))
    models = [write_bundle(tmp_path / "bright"), write_bundle(tmp_path / "dark", meta_learner=DARK)]
    arguments = [tmp_path / "photographs", "--opinions", tmp_path / "cells.csv", "--precision", "fp32"]
    for model in models:
        arguments += ["--model", model]
    monkeypatch.setattr("sys.argv", ["order", *map(str, [*arguments, "-o", tmp_path / "order.json"])])
    order.main()
    found = json.loads((tmp_path / "order.json").read_text())
    assert found == json.loads(capsys.readouterr().out) and found["photographs"] == 1
    bright, dark = (found["models"][str(model)] for model in models)
    people = "agreement with people over 125 cells"
    assert bright[people] == pytest.approx(1) and dark[people] == pytest.approx(-1)
    assert set(bright["adjacent"].values()) == {1.0} and set(dark["adjacent"].values()) == {0.0}
    assert set(bright["above"].values()) == {0.0} and set(dark["above"].values()) == {1.0}


DARK = {"weights": [-0.5, -0.25], "intercept": 0.9, "variance_floor": 0.01, "variance_slope": 2.0}
