"""`train teach`: what lower stages give is kept, upper ones go on from it, and a bundle of the networks comes out."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metaqap_fast.engine.samples import generated
from metaqap_fast.errors import UsageError
from metaqap_fast.model import bundle as bundles
from metaqap_fast.train import rungs, teach_run
from metaqap_fast.train.lower import Lower, keep
from metaqap_fast.train.member import Features, Member, TrainedHead
from metaqap_fast.train.networks import read_config
from metaqap_fast.train.shipped import shipped_head, shipped_network
from metaqap_fast.train.teach import predictions
from metaqap_fast.train.teach_run import settings_of
from metaqap_fast.train.trainee import Trainee
from rated import damaged, rated_set

SHIPPED = Path(bundles.__file__).parent / "default"
NAME, STAGE = "mobilenetv2", 11
QUICK = 128  # pixels that the network sees of a view


@pytest.fixture(scope="module")
def network() -> Features:
    config = read_config(NAME)
    return Features(config, shipped_network(SHIPPED / f"{NAME}.onnx", config))


def test_upper_stages_go_on_from_what_is_kept(network: Features, tmp_path: Path) -> None:
    """Predictions of the two halves are those of the whole; a second call reads what is there."""
    views, asked = generated(512, 3), []

    def some(start: int, stop: int) -> Iterator[np.ndarray]:
        asked.append((start, stop))
        return iter(views[start:stop])

    lower = Lower([network], [STAGE])
    kept = keep(lower, 3, some, tmp_path, piece=2)
    shutil.rmtree(tmp_path / "000002-000003")  # stopped before the last piece
    kept = keep(lower, 3, some, tmp_path, piece=2)
    assert asked == [(0, 2), (2, 3), (2, 3)]
    assert len(kept) == 3
    assert np.array_equal(kept.activation(0, np.array([2, 0]))[1], kept.activation(0, slice(None))[0])

    head = shipped_head(SHIPPED / f"{NAME}.onnx")
    trainee = Trainee(network, TrainedHead(kept.pooled(0).astype(np.float32), *head, 0.0), STAGE).eval()
    trainee.head.mean.zero_()  # three views standardise nothing: the raw head
    trainee.head.inverse.fill_(1)
    trainee.head.weights.data = torch.tensor(head[0], dtype=torch.float32) * len(head[0]) ** 0.5
    trainee.head.bias.data = torch.tensor(head[1], dtype=torch.float32)
    with torch.no_grad():
        whole = Member(network, *head)(torch.from_numpy(np.stack(views)))[:, 0].numpy()
    assert predictions(trainee, 0, kept) == pytest.approx(whole, abs=0.01)  # bf16


def test_settings_are_of_what_is_seen_or_of_fine_tuning() -> None:
    settings, teaching = settings_of({"images": 50, "steps": 7})
    assert (settings.images, teaching.steps) == (50, 7)
    for wrong in ({"epochs": 2}, {"steps": 0}, {"components": 3}, {"damage": -1}, {"share": 1.5}, {"steps": 2.5}):
        with pytest.raises(UsageError):
            settings_of(wrong)


@pytest.mark.full
def test_from_a_bundle_to_one_that_was_taught(
    tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rungs, "damaged", damaged)
    monkeypatch.setattr(teach_run, "read_config", lambda name: replace(read_config(name), size=QUICK))
    rated_set(tmp_path, np.random.default_rng(0))
    (tmp_path / "bundle").mkdir()
    shipped = json.loads((SHIPPED / "bundle.json").read_text())
    entry = next(each for each in shipped["members"] if each["name"] == NAME)
    shutil.copy(SHIPPED / f"{NAME}.onnx", tmp_path / "bundle")
    document = {key: shipped[key] for key in ("format", "view_size", "hidden")} | {
        "format_version": 2, "name": "one", "members": [{k: v for k, v in entry.items() if k != "ranges"}],
        "meta_learner": {"weights": [1.0], "intercept": 0.0, "variance_floor": 0.01, "variance_slope": 0.0},
        "files": {f"{NAME}.onnx": hashlib.sha256((tmp_path / f"bundle/{NAME}.onnx").read_bytes()).hexdigest()},
    }  # fmt: skip
    (tmp_path / "bundle/bundle.json").write_text(json.dumps(document))

    command = [
        "train", "teach", tmp_path / "set/mos.csv", "--data", "csv", "--low", 0, "--high", 1,
        "--model", tmp_path / "bundle", "--photographs", tmp_path / "photographs", "--opinions", tmp_path / "cells.csv",
        "--work", tmp_path / "work", "-o", tmp_path / "out", "--set", "photographs=2", "--set", "kinds=1",
        "--set", "better=2", "--set", "checked=0", "--set", "judged=1", "--set", "steps=3", "--set", "batch=4",
        "--set", "lessons=4", "--set", "damage=1", "--set", "share=0.5",
    ]  # fmt: skip
    result = cli(*command)
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    assert figures == json.loads((tmp_path / "out/taught.json").read_text())
    assert -1 <= figures[NAME]["agreement with people over 125 cells"] <= 1
    made = bundles.load(str(tmp_path / "out"))
    assert made.hidden is None
    assert made.document["training"]["taught_from"] == "one"
    assert made.document["members"][0]["taught"]["steps"] == 3
    old, new = (
        shipped_network(folder / f"{NAME}.onnx", read_config(NAME)).state_dict()
        for folder in (tmp_path / "bundle", tmp_path / "out")
    )
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    stages = {int(name.split(".")[1]) for name in moved}
    assert stages == set(range(STAGE, 19))  # the stages below stay as they are, to the bit
    again = cli(*command)  # reads everything back
    assert json.loads(again.stdout) == figures
    runs = list((tmp_path / "work/taught").iterdir())
    whole = cli(*command, "--set", "share=1", "-o", tmp_path / "whole")  # the same run, of which all is taken
    assert whole.exit_code == 0, whole.stderr
    assert list((tmp_path / "work/taught").iterdir()) == runs
    all_of_it = shipped_network(tmp_path / f"whole/{NAME}.onnx", read_config(NAME)).state_dict()
    for name in moved:
        assert torch.allclose(new[name], old[name].lerp(all_of_it[name], 0.5), rtol=0, atol=2e-3)  # fp16
    assert any(not torch.equal(new[name], all_of_it[name]) for name in moved)
    asked: list[Path] = []

    def listening(*arguments: Any) -> Trainee:
        asked.append(arguments[0])
        raise UsageError("heard")

    monkeypatch.setattr(teach_run, "teach", listening)
    # Other settings are another run, which is not taken for the first.
    assert "heard" in cli(*command, "--set", "damage=0").stderr
    assert asked[0].parent == runs[0].parent and asked[0] not in runs
