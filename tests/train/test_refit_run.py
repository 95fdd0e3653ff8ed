"""`train heads` from a bundle, a labelled set, photographs and opinions to a bundle with better heads and reasons."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import nn

from metaqap_fast.engine.native.isa import Isa
from metaqap_fast.engine.samples import generated
from metaqap_fast.model import bundle as bundles
from metaqap_fast.train import finer, large, rungs
from metaqap_fast.train.reasons import REASONS
from native_reference import exported, member, need
from rated import damaged, rated_set

pytestmark = pytest.mark.full
SMALL = (
    "components=32", "layers=1", "reason_units=4", "score_units=8", "steps=20", "score_steps=80", "better=4",
    "checked=2",
)  # fmt: skip
FEW = [part for entry in SMALL for part in ("--set", entry)]
SIZE = 512


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, a labelled set whose pictures are better the brighter they are, photographs, and opinions."""
    root, rng = tmp_path_factory.mktemp("heads"), np.random.default_rng(0)
    made = member(["ds_r1_k3_s2_e1_c16"], 96, activation=nn.ReLU6, views=generated(SIZE, 1))
    (root / "bundle").mkdir()
    exported(made, root / "bundle/small.onnx")
    document = {
        "format": "metaqap-bundle", "format_version": 1, "name": "small", "view_size": SIZE,
        "members": [{"name": "small", "file": "small.onnx"}],
        "meta_learner": {"weights": [1.0], "intercept": 0.0, "variance_floor": 0.01, "variance_slope": 0.0},
        "files": {"small.onnx": hashlib.sha256((root / "bundle/small.onnx").read_bytes()).hexdigest()},
    }  # fmt: skip
    (root / "bundle/bundle.json").write_text(json.dumps(document))

    rated_set(root, rng)
    (root / "sets.toml").write_text(
        '[[set]]\nname = "rated"\nfamily = "scaling"\npart = "validation"\ndata = "csv"\nroot = "set/mos.csv"\n'
        'low = 0\nhigh = 1\nlicence = "CC0"\nrecipe = "made up"\n'
    )
    (root / "strange").mkdir()
    for i in range(12):
        Image.fromarray(rng.integers(0, 2, (64, 64), np.uint8) * 255).save(root / f"strange/{i}.png")
    return root


def test_from_a_bundle_to_one_with_better_heads(
    there: Path,
    tmp_path: Path,
    cli: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    need(Isa.AVX2, "fp32")
    monkeypatch.setattr(rungs, "damaged", damaged)
    for name, value in {"LEAST": SIZE, "LINES": (300, 200, 150, 100), "CROP": 200}.items():
        monkeypatch.setattr(large, name, value)  # photographs that are quickly made
    monkeypatch.setattr(finer, "STEPS", 80)
    command = [
        "train", "heads", there / "set/mos.csv", "--data", "csv", "--low", 0, "--high", 1, "--model", there / "bundle",
        "--photographs", there / "photographs", "--opinions", there / "cells.csv", "--work", tmp_path / "work",
        "--large", there / "photographs", "--strange", there / "strange", "--set", "judged=1", "--set", "kinds=2", *FEW,
        "--set", f"fine_lines={SIZE}", "-o", tmp_path / "out",
    ]  # fmt: skip
    result = cli(*command)
    assert result.exit_code == 0, result.stderr
    made = bundles.load(tmp_path / "out")
    assert (
        made.name == "small-heads" and made.reasons == (*REASONS, "unfamiliar") and made.document["format_version"] == 3
    )
    assert made.readout.fading == finer.fading(made.meta) and not made.meta.fine_variance
    units = len(made.readout.weights) + len(made.readout.fine_weights)
    assert made.has_fine and made.fine_lines == SIZE and made.members[0].units == units
    figures = json.loads((tmp_path / "out/heads.json").read_text())
    assert set(figures["reasons"]) == set(REASONS)
    for when in ("as it was", "refitted"):
        assert {"agreement with people over 125 cells", "srocc", "plcc"} <= set(figures[when])
    assert set(figures["agreement with metrics on copies of large photographs"]) == {
        "as it was",
        "refitted",
        "with fine views",
    }
    assert figures["unfamiliar"]["AUC"] > 0.9 and figures["unfamiliar"]["held-out photographs"] < 0.1
    assert json.loads(result.stdout) == figures

    def nothing(*_: Any) -> Any:
        raise AssertionError("seen already")

    monkeypatch.setattr(rungs, "damaged", nothing)
    again = cli(*command[:-1], tmp_path / "again", "--set", "still=1")
    assert again.exit_code == 0, again.stderr
    settings = json.loads((tmp_path / "again/heads.json").read_text())["settings"]
    assert settings["still"] == 1 and settings["layers"] == 1
    doubt = cli(*command[:-1], tmp_path / "doubt", "--uncertainty-only", "--model", tmp_path / "out")
    assert doubt.exit_code == 0, doubt.stderr
    for option in ("strange", "large"):
        assert f"--{option} is not looked at: --uncertainty-only learns nothing from it" in caplog.messages
    found = json.loads(doubt.stdout)["uncertainty"]
    for name, first in figures["uncertainty"].items():  # of the same units, before their weights were fp16
        before = [key for key in first if "before" in key]
        assert [found[name][key] for key in before] == pytest.approx([first[key] for key in before], abs=1e-3)
    for each in (figures["uncertainty"], found):  # fitted on both together: one alone may be less
        assert np.mean([one["inside, after"] for one in each.values()]) > 0.93
        damage = each["damaged photographs"]
        assert damage["inside, before"] < 0.5 and damage["inside, after"] > 0.85
    same, old = (tmp_path / each / made.members[0].file.name for each in ("doubt", "out"))
    assert same.read_bytes() == old.read_bytes()
    doubted = bundles.load(tmp_path / "doubt")
    assert replace(doubted.meta, severity_variance=made.meta.severity_variance) == made.meta
    assert doubted.hidden == made.hidden
    assert doubted.document["training"]["uncertainty"]["of"] == "small-heads"
    alone = cli(*command[:-1], tmp_path / "alone", "--uncertainty-only", "--model", there / "bundle")
    assert alone.exit_code == 2 and "which small has not" in alone.stderr
    others = "--model", tmp_path / "out", "--set", f"fine_lines={2 * SIZE}"
    mixed = cli(*command[:-1], tmp_path / "mixed", "--uncertainty-only", *others)
    assert mixed.exit_code == 2 and "--set fine_lines takes units for fine views" in mixed.stderr
    fine = cli(
        *command[:-1], tmp_path / "fine", "--fine-only", "--model", tmp_path / "out", "--rated", there / "sets.toml"
    )
    assert fine.exit_code == 0, fine.stderr
    finer_one, said = bundles.load(tmp_path / "fine"), json.loads(fine.stdout)
    assert finer_one.document["training"]["fine"]["of"] == "small-heads"
    assert finer_one.readout.weights == made.readout.weights and finer_one.readout.fading == finer.fading(made.meta)
    assert replace(finer_one.meta, fine_variance=()) == made.meta
    inside = said["uncertainty"]["rated large pictures"]
    assert inside["inside, after"] >= max(0.9, inside["inside, before"]) and finer_one.meta.fine_variance[0] == (0, 0)
    assert set(said["agreement with metrics on copies of large photographs"]) == {
        "as it was", "refitted", "with fine views"
    }  # fmt: skip
    other = cli(*command[:-1], tmp_path / "other", "--set", "kinds=1")
    assert isinstance(other.exception, AssertionError)  # other damage is not what was seen


def test_a_smaller_model_says_what_a_larger_one_says(
    there: Path, tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    need(Isa.AVX2, "fp32")
    monkeypatch.setattr(rungs, "damaged", damaged)
    command = [
        "train", "distil", there / "set/mos.csv", "--data", "csv", "--low", 0, "--high", 1, "--model", there / "bundle",
        "--view-size", 256, "--photographs", there / "photographs", "--opinions", there / "cells.csv",
        "--work", tmp_path / "work", "--strange", there / "strange", "--name", "tiny", "--set", "judged=1",
        "--set", "kinds=1", *FEW, "-o", tmp_path / "out",
    ]  # fmt: skip
    wrong = cli(*command, "--member", "large")
    assert wrong.exit_code == 2 and "the model small has no member 'large': one of small" in wrong.stderr
    result = cli(*command, "--member", "small")
    assert result.exit_code == 0, result.stderr
    made = bundles.load(tmp_path / "out")
    assert (made.name, made.view_size, made.reasons) == ("tiny", 256, (*REASONS, "unfamiliar"))
    assert made.members[0].ranges and made.meta.weights == (1.0,)
    figures = json.loads(result.stdout)
    assert figures["head alone on the held-out fold"]["srocc"] > 0.8  # the pictures differ in brightness alone
    assert made.document["training"]["heads"]["distilled_from"] == "small"


@pytest.mark.parametrize(
    ("opinions", "setting", "message"),
    [
        ("cells.csv", "size=5", "there is no setting 'size'"),
        ("set/mos.csv", "judged=1", "line 2: needs id, level and mean_opinion"),
    ],
)
def test_what_is_wrong_is_said_before_hours_are_spent(
    there: Path, tmp_path: Path, cli: Callable[..., Any], opinions: str, setting: str, message: str
) -> None:
    result = cli(
        "train", "heads", there / "set/mos.csv", "--data", "csv", "--low", 0, "--high", 1, "--model", there / "bundle",
        "--photographs", there / "photographs", "--opinions", there / opinions, "--set", setting,
        "--work", tmp_path / "work", "-o", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 2 and message in result.stderr, result.stderr


@pytest.mark.parametrize(
    ("option", "model", "strange", "said"),
    [
        ("--unfamiliar-only", "bundle", True, "small has not"),
        ("--unfamiliar-only", "default", False, "give --strange FOLDER"),
        ("--uncertainty-only", "bundle", True, "small has not"),
        ("--scores-only", "bundle", True, "small has not"),
    ],
)
def test_what_one_part_alone_needs(
    there: Path, tmp_path: Path, cli: Callable[..., Any], option: str, model: str, strange: bool, said: str
) -> None:
    """Before hours are spent."""
    result = cli(
        "train", "heads", there / "set/mos.csv", "--data", "csv", "--low", 0, "--high", 1, option,
        "--model", there / model if model == "bundle" else model, "--photographs", there / "photographs",
        "--opinions", there / "cells.csv", *(("--strange", there / "strange") if strange else ()),
        "--work", tmp_path / "work", "-o", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 2 and said in result.stderr
    assert not (tmp_path / "work").exists() and not (tmp_path / "out").exists()


def test_parts_are_fitted_one_at_a_time(there: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    result = cli(
        "train", "heads", there / "set/mos.csv", "--data", "csv", "--low", 0, "--high", 1, "--fine-only",
        "--uncertainty-only", "--photographs", there / "photographs", "--opinions", there / "cells.csv",
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 2 and "--fine-only and --uncertainty-only cannot be given together" in result.stderr


@pytest.mark.parametrize("mistake", ["a file", "a file on the way", "no large ones", "few strange ones", "small ones"])
def test_what_comes_last_is_looked_at_first(
    there: Path, tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    """Where the bundle is to go, and folders that hold too little: before any picture is damaged."""
    monkeypatch.setattr(rungs, "damaged", lambda *_: pytest.fail("hours are spent"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    output, said, more = tmp_path / "out", "", list[object]()
    if mistake.startswith("a file"):
        output = tmp_path / ("file" if mistake == "a file" else "file/out")
        said = f"{output}: {'File exists' if mistake == 'a file' else 'Not a directory'}: -o is a folder"
    elif mistake == "no large ones":
        more, said = ["--large", tmp_path / "empty"], "empty: no photographs for train among 0"
    elif mistake == "small ones":
        more, said = ["--large", there / "photographs"], "lines"
    else:
        more, said = ["--strange", tmp_path / "empty"], "empty: 0 pictures are too few"
    result = cli(
        "train", "heads", there / "set/mos.csv", "--data", "csv", "--low", 0, "--high", 1, "--model", there / "bundle",
        "--photographs", there / "photographs", "--opinions", there / "cells.csv", "--work", tmp_path / "work",
        "-o", output, *more,
    )  # fmt: skip
    assert result.exit_code == 2 and said in result.stderr, result.stderr or result.exception


def test_ctrl_c_says_how_to_go_on(cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(**_: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("metaqap_fast.train.refit_run.refit", stopped)
    needed = ["--data", "csv", "--photographs", tmp_path, "--opinions", __file__, "-o", tmp_path / "out"]
    result = cli("train", "heads", tmp_path, *needed)
    assert (
        result.exit_code == 130 and "interrupted; what was finished is kept. To go on, give the same" in result.stderr
    )
