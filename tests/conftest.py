"""Photographs under a free licence, encoders, and a miniature bundle whose scores can be computed by hand."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

VIEW = 64


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled models go to a folder of the test session, not to the user's cache."""
    monkeypatch.setenv("METAQAP_FAST_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """512x512 RGB; astronaut, public domain (NASA), from scikit-image."""
    from skimage import data

    return Image.fromarray(data.astronaut())


@pytest.fixture(scope="session")
def photos() -> dict[str, Image.Image]:
    """Photographs that scikit-image ships, CC0 or public domain."""
    from skimage import data

    names = ("astronaut", "chelsea", "coffee", "rocket")
    return {name: Image.fromarray(getattr(data, name)()) for name in names}


def tiny_member(scale: float, statistic: str) -> onnx.ModelProto:
    """[N, VIEW, VIEW, 3] uint8 -> [N, 1]: scale times the mean or the maximum of all pixels, over 255."""
    op = {"mean": "ReduceMean", "max": "ReduceMax"}[statistic]
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node(op, ["x"], ["m"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["m", "scale"], ["s"]),
        helper.make_node("Reshape", ["s", "shape"], ["prediction"]),
    ]
    constants = [
        helper.make_tensor("scale", TensorProto.FLOAT, [], [scale / 255]),
        helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 1]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", VIEW, VIEW, 3])
    out = helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["batch", 1])
    graph = helper.make_graph(nodes, "tiny", [image], [out], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_bundle(folder: Path, **changes: Any) -> Path:
    """A bundle of two tiny members: 0.5 * mean + 0.25 * (0.8 * max) + 0.1."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, scale, statistic in (("mean", 1.0, "mean"), ("max", 0.8, "max")):
        path = folder / f"{name}.onnx"
        onnx.save(tiny_member(scale, statistic), path)
        files[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    document = {
        "format": "metaqap-bundle",
        "format_version": 1,
        "name": "tiny",
        "view_size": VIEW,
        "members": [{"name": "mean", "file": "mean.onnx"}, {"name": "max", "file": "max.onnx"}],
        "meta_learner": {"weights": [0.5, 0.25], "intercept": 0.1, "variance_floor": 0.01, "variance_slope": 2.0},
        "files": files,
    }
    (folder / "bundle.json").write_text(json.dumps({**document, **changes}))
    return folder


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def folder(tmp_path: Path, photo: Image.Image) -> Path:
    """Ten small images in two levels of folders, a note that is no image, and three bad files."""
    root = tmp_path / "photos"
    (root / "b").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(5):
        x, y = rng.integers(0, 400, 2)
        photo.crop((x, y, x + VIEW, y + VIEW)).save(root / f"{i}.png")
        photo.crop((y, x, y + VIEW + 40 * i, x + VIEW)).save(root / "b" / f"{i}.jpg")
    (root / "notes.txt").write_text("not an image")
    (root / "b" / "text.jpg").write_text("hello")
    (root / "empty.png").write_bytes(b"")
    (root / "cut.jpg").write_bytes(encode(photo, "JPEG")[:4000])
    return root


@pytest.fixture
def cli() -> Callable[..., Any]:
    """Runs the command line in this process; gives click's result (exit_code, stdout, stderr)."""
    from click.testing import CliRunner

    from metaqap_fast.cli import main

    def invoke(*arguments: object) -> Any:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return invoke
