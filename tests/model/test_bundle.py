"""Bundles are data that is checked: damage, tampering and newer formats are clear errors."""

from __future__ import annotations

import json
import re
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from bundles import write_bundle
from metaqap_fast.errors import UsageError
from metaqap_fast.model import bundle as bundles
from metaqap_fast.model.bundle import BundleError


def edit(folder: Path, **changes: Any) -> None:
    document = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps({**document, **changes}))


def test_load(bundle: Path) -> None:
    loaded = bundles.load(str(bundle))
    assert loaded.name == "tiny" and [member.name for member in loaded.members] == ["mean", "max"]
    assert loaded.view_size == 64 and loaded.meta.weights == (0.5, 0.25)


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b")
    data = bytearray((folder / "max.onnx").read_bytes())
    data[-1] ^= 1
    (folder / "max.onnx").write_bytes(bytes(data))
    with pytest.raises(BundleError, match=r"max\.onnx is not the file"):
        bundles.load(str(folder))


def test_every_other_file_is_found(tmp_path: Path) -> None:
    """Whichever of the two digests is the greater."""
    folder = write_bundle(tmp_path / "b")
    data = (folder / "max.onnx").read_bytes()
    for i in range(8):
        (folder / "max.onnx").write_bytes(data + bytes([i]))
        with pytest.raises(BundleError, match=r"max\.onnx is not the file that bundle\.json describes"):
            bundles.load(str(folder))


@pytest.mark.parametrize("size", [31, 32, 33, 4095, 4096, 4097])
def test_view_sizes_have_bounds(tmp_path: Path, size: int) -> None:
    folder = write_bundle(tmp_path / "b", view_size=size)
    if size in (31, 4097):
        with pytest.raises(BundleError, match=f"view_size {size}"):
            bundles.load(folder)
    else:
        assert bundles.load(folder).view_size == size


def test_a_variance_may_depend_on_scores_below_zero(tmp_path: Path) -> None:
    points = [[-0.5, 0.1], [-0.1, 0.2], [0.4, 0.0]]
    folder = write_bundle(
        tmp_path / "b",
        meta_learner={"weights": [0.0, 1], "intercept": -2, "variance_floor": points, "variance_slope": 0},
    )
    meta = bundles.load(folder).meta
    assert meta.variance_floor == ((-0.5, 0.1), (-0.1, 0.2), (0.4, 0.0)) and meta.weights == (0, 1)
    with pytest.raises(FrozenInstanceError):
        meta.intercept = 0.0  # type: ignore[misc]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b")
    (folder / "mean.onnx").unlink()
    with pytest.raises(BundleError, match=r"mean\.onnx: No such file"):
        bundles.load(str(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 4}, "bundle format 4; this program reads up to 3"),
        ({"format": "other"}, "not a metaqap-bundle"),
        ({"members": []}, "damaged"),
        (
            {"members": [{"name": m, "file": f"{m}.onnx", "units": 1} for m in ("mean", "max")]},
            "nothing says what becomes of them",
        ),
        *(
            (
                {
                    "members": [{"name": m, "file": f"{m}.onnx", "units": units} for m in ("mean", "max")],
                    "hidden": {"weights": weights, "bias": bias, "reasons": reasons, "steeper": steeper},
                },
                message,
            )
            for units, weights, bias, reasons, steeper, message in (
                (2, [[0.1, 1]], [0, 0], ["noise"], [0], "1 rows of weights"),
                (1, [[0.1, 1]], [0, 0, 0], ["noise"], [0], "a column for the score"),
                (1, [[0.1, 1]], [0, 0], ["noise", "banding"], [0], "a column for the score"),
                (1, [[0.1, float("nan")]], [0, 0], ["noise"], [0], "no number"),
                (1, [[0.1, 1]], [0, 0], ["noise"], [-1], "at least 0"),
                (1, [[0.1, 1]], [0, 0], ["noise"], [], "a column for the score"),
                (1, [[0.1, 1, 1]], [0, 0, 0], ["noise", "noise"], [0, 0], "two reasons of one name"),
            )
        ),
        *(
            (
                {
                    "members": [{"name": m, "file": f"{m}.onnx", "units": 2} for m in ("mean", "max")],
                    "hidden": {"weights": [[0.1]], "bias": [0], "reasons": [], "steeper": [], "fine": fine},
                },
                message,
            )
            for fine, message in (
                ({"weights": [0.1, 0.1], "bias": 0}, "3 rows of weights for"),
                ({"weights": [], "bias": 0}, "1 rows of weights for"),
                ({"weights": [float("nan")], "bias": 0}, "no number"),
                ({"weights": [0.1], "bias": float("inf")}, "no number"),
                ({"weights": [0.1]}, "damaged"),
                ({"weights": [0.1], "bias": 0, "fading": {"poor": 0.4, "fair": 0.4, "lost": 0.1}}, "poor below fair"),
                ({"weights": [0.1], "bias": 0, "fading": {"poor": 0.4, "fair": 0.6, "lost": -0.1}}, "poor below fair"),
                ({"weights": [0.1], "bias": 0, "fading": {"poor": 0.4, "fair": 0.6}}, "damaged"),
                ({"weights": [0.1], "bias": 0, "lines": 10}, "a fine view of 10 lines"),
                ({"weights": [0.1], "bias": 0, "lines": 10_000}, "a fine view of 10000 lines"),
            )
        ),
        ({"members": [{"name": "x", "file": "x.onnx"}] * 2}, "no digest"),
        ({"meta_learner": {"weights": [1.0], "intercept": 0, "variance_floor": 0, "variance_slope": 0}}, "1 weights"),
        (
            {
                "meta_learner": {
                    "weights": [1.0, float("nan")],
                    "intercept": 0,
                    "variance_floor": 0,
                    "variance_slope": 0,
                }
            },
            "range",
        ),
        ({"meta_learner": {"weights": [1.0, 1.0], "intercept": 0, "variance_floor": -1, "variance_slope": 0}}, "range"),
        *(
            (
                {"meta_learner": {"weights": [1.0, 1.0], "intercept": 0, "variance_floor": floor, "variance_slope": 0}},
                message,
            )
            for floor, message in (
                ([], "empty"),
                ([[0.5, 0.1], [0.5, 0.2]], "ascend"),
                ([[0.1, 0.1], [0.5, -0.2]], "range"),
                ([[0.1]], "damaged"),
                ("wide", "damaged"),
            )
        ),
        ({"files": {"../secret": "00"}}, "leaves the bundle"),
        ({"view_size": 10**9}, "view_size"),
        ({"view_size": "large"}, "damaged"),
    ],
)
def test_documents_that_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = write_bundle(tmp_path / "b")
    edit(folder, **changes)
    with pytest.raises(BundleError, match=message):
        bundles.load(str(folder))


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_what_is_no_document(tmp_path: Path, text: str) -> None:
    folder = write_bundle(tmp_path / "b")
    (folder / "bundle.json").write_text(text)
    with pytest.raises(BundleError):
        bundles.load(str(folder))


@pytest.mark.parametrize("name", ["nosuch", "../tests", "/nowhere/at/all", "", None, 3, "model/default"])
def test_unknown_names(name: object) -> None:
    with pytest.raises(UsageError, match=rf"unknown model {re.escape(repr(name))}: give one of "):
        bundles.load(name)  # type: ignore[arg-type]


def test_the_default_bundle_ships() -> None:
    assert "default" in bundles.available()
    loaded = bundles.load()
    assert len(loaded.members) >= 2
    size = sum(file.stat().st_size for file in loaded.path.iterdir())
    assert size <= 42e6  # 30 of them are hidden units; the package with both models is to stay far below 100 MB
    assert (loaded.path / "README.md").exists()
