"""The benchmark of a view's cost: every engine and precision, each model over the first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bundles import write_bundle
from metaqap_fast.bench import view_cost


def test_each_model_is_measured_beside_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [str(write_bundle(tmp_path / name)) for name in ("one", "other")]
    arguments = ["--engines", "openvino,native", "--precisions", "fp32", "--turns", "2", "-o", str(tmp_path / "o.json")]
    monkeypatch.setattr("sys.argv", ["view_cost", *models, *arguments])
    view_cost.main()
    found = json.loads((tmp_path / "o.json").read_text())
    assert found == json.loads(capsys.readouterr().out) and found["turns"] == 2
    first, other = (found["cost"]["openvino fp32"][model] for model in models)
    assert first["ratio"] == 1 and first["ms"] > 0
    assert other["ratio"] == pytest.approx(other["ms"] / first["ms"], rel=0.2, abs=0.01)
    assert "not measured" in found["cost"]["native fp32"]  # it runs no such network, and says so
