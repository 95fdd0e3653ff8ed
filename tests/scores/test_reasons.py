"""Reasons in rows, files and exports: where a bundle gives them, and nowhere else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from bundles import VIEW, write_bundle
from metaqap_fast import Scorer, ScoreTable
from metaqap_fast.errors import Status
from metaqap_fast.model import bundle as bundles
from metaqap_fast.records import Row
from metaqap_fast.scores.export import records

NAMES = ["underexposed", "overexposed"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle, whose first member also says by how much an image's mean is over .5 or under .25, times four."""
    folder = write_bundle(tmp_path_factory.mktemp("reasons"))
    model = onnx.load(folder / "mean.onnx")
    model.graph.node[-1].output[0] = "alone"
    model.graph.node.extend(
        [
            helper.make_node("Mul", ["alone", "times"], ["scaled"]),
            helper.make_node("Add", ["scaled", "plus"], ["beside"]),
            helper.make_node("Concat", ["alone", "beside"], ["prediction"], axis=1),
        ]
    )
    for name, values in (("times", [-4.0, 4.0]), ("plus", [1.0, -2.0])):
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT, [1, 2], values))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3
    onnx.save(model, folder / "mean.onnx")
    document = json.loads((folder / "bundle.json").read_text())
    document["format_version"] = 2
    document["members"][0]["units"] = 2
    document["hidden"] = {"reasons": NAMES, "weights": [[0, 1.5, 0], [0, 0, 1.5]], "bias": [0, 0, 0], "steeper": [0, 0]}
    document["files"]["mean.onnx"] = hashlib.sha256((folder / "mean.onnx").read_bytes()).hexdigest()
    (folder / "bundle.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for name, level in (("black", 0), ("dim", 51), ("good", 100), ("bright", 153)):
        Image.new("RGB", (VIEW, VIEW), (level,) * 3).save(folder / f"{name}.png")
    (folder / "empty.png").write_bytes(b"")
    return folder


def test_reasons_come_with_the_scores(bundle: Path, images: Path, tmp_path: Path) -> None:
    with Scorer(model=bundle, device="cpu", precision="fp32") as scorer:
        table = scorer.score(images)
        plain = bundles.load(bundle)
    assert plain.reasons == tuple(NAMES) and table.attributes["reasons"] == NAMES
    names = [key.decode() for key in table.keys]
    assert names == ["black.png", "bright.png", "dim.png", "empty.png", "good.png"]
    assert table.reason == ["underexposed", "overexposed", "", "", ""]  # dim is below what is named
    wanted = [[1, 0], [0, 0.6**2], [0.3**2, 0], [np.nan, np.nan], [0, 0]]
    assert table.reasons == pytest.approx(np.array(wanted), abs=2e-3, nan_ok=True)
    assert table.members.shape == (5, 2) and table[1].reasons.tolist() == table.reasons[1].tolist()
    for name in ("scores.h5", "scores.csv"):
        table.save(tmp_path / name)
    back = ScoreTable.read(tmp_path / "scores.h5")
    assert back.reason == table.reason and back.reasons.tobytes() == table.reasons.tobytes()
    header, first, *_ = (tmp_path / "scores.csv").read_text().splitlines()
    row = dict(zip(header.split(","), first.split(","), strict=True))
    assert row["reason"] == "underexposed" and float(row["reason_underexposed"]) == pytest.approx(1)


def test_a_bundle_without_reasons_writes_no_columns(images: Path, tmp_path: Path) -> None:
    with Scorer(model=write_bundle(tmp_path / "plain"), device="cpu", precision="fp32") as scorer:
        table = scorer.score(images)
    for name in ("scores.h5", "scores.csv"):
        table.save(tmp_path / name)
    with h5py.File(tmp_path / "scores.h5") as file:
        assert not {"reason", "reasons"} & set(file["scores"]) and file.attrs["reasons"].shape in (None, (0,))
    assert "reason" not in (tmp_path / "scores.csv").read_text().splitlines()[0]
    back = ScoreTable.read(tmp_path / "scores.h5")
    assert back.reason == [""] * 5 and back.reasons.shape == (5, 0)


def test_names_of_columns_have_no_spaces() -> None:
    row = Row(
        b"a.png", 0.5, 0.1, np.zeros(1, np.float32), Status.ok, "", 8, 8, 99, reasons=np.array([0.25], np.float32)
    )
    table = ScoreTable.from_rows([row], {"members": ["a b"], "reasons": ["colour cast"]})
    (found,) = records(table)
    assert found["reason_colour_cast"] == 0.25 and found["member_a_b"] == 0
