"""Large pictures are looked at more closely: what is seen there lowers the score, and nothing else changes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from bundles import VIEW, tiny_member
from corpus import encode
from metaqap_fast import Scorer
from metaqap_fast.decode import DecodeOptions, Limits, create, views
from metaqap_fast.records import Encoded

GRAY, LIGHT = 100, 255


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of fine views at twice the scale of the others, which goes without saying."""
    return made(tmp_path_factory.mktemp("bundle"))


def made(folder: Path, **lines: int) -> Path:
    """One member: the mean of all pixels, and two units that are the largest; the second reads fine views."""
    mean = tiny_member(1.0, "mean")
    nodes = [
        *mean.graph.node,
        helper.make_node("ReduceMax", ["x"], ["n"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["n", "scale"], ["t"]),
        helper.make_node("Reshape", ["t", "shape"], ["unit"]),
        helper.make_node("Concat", ["prediction", "unit", "unit"], ["columns"], axis=1),
    ]
    out = helper.make_tensor_value_info("columns", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph(nodes, "tiny", list(mean.graph.input), [out], list(mean.graph.initializer))
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "member.onnx"
    )
    document = {
        "format": "metaqap-bundle",
        "format_version": 2,
        "name": "fine",
        "view_size": VIEW,
        "members": [{"name": "mean", "file": "member.onnx", "units": 2}],
        "meta_learner": {"weights": [1.0], "intercept": 0.0, "variance_floor": 0.01, "variance_slope": 0.0},
        "hidden": {
            "reasons": [], "weights": [[0.0]], "bias": [0.0], "steeper": [],
            "fine": {"weights": [-0.5], "bias": 0.25, **lines},
        },
        "files": {"member.onnx": hashlib.sha256((folder / "member.onnx").read_bytes()).hexdigest()},
    }  # fmt: skip
    (folder / "bundle.json").write_text(json.dumps(document))
    return folder


def picture(width: int, height: int, light: bool) -> np.ndarray:
    """Gray, with single light pixels in one corner, which are gone at half the size, or without."""
    pixels = np.full((height, width, 3), GRAY, np.uint8)
    if light:
        pixels[-VIEW::8, -VIEW::8] = LIGHT
    return pixels


@pytest.mark.parametrize("isolate", [True, False])
def test_what_only_a_fine_view_shows_lowers_the_score(bundle: Path, isolate: bool) -> None:
    sizes = [(2 * VIEW, 2 * VIEW), (2 * VIEW, 3 * VIEW), (2 * VIEW - 1, 2 * VIEW), (2 * VIEW, 17 * VIEW)]
    pictures = [picture(*size, light) for size in sizes for light in (True, False)]
    with Scorer(str(bundle), precision="fp32", engine="openvino", isolate=isolate) as scorer:
        arrays = scorer.score_arrays(pictures)
        files = scorer.score_bytes([encode(Image.fromarray(pixels), "PNG") for pixels in pictures])
    assert np.array_equal(arrays.score, files.score)
    changes = arrays.score - [pixels.mean() / 255 for pixels in pictures]
    assert changes == pytest.approx([-0.25, 0, -0.25, 0, 0, 0, 0, 0], abs=0.01)  # a strip has no fine view
    assert arrays.attributes["preprocessing"] == f"views=fit and fine, view size {VIEW}"


def test_a_bundle_says_how_many_lines_its_fine_views_are_cut_from(tmp_path: Path) -> None:
    sizes = [(3 * VIEW, 4 * VIEW), (3 * VIEW - 1, 4 * VIEW)]
    with Scorer(str(made(tmp_path, lines=3 * VIEW)), precision="fp32", engine="openvino", isolate=False) as scorer:
        pictures = [picture(*size, light=True) for size in sizes]
        changes = scorer.score_arrays(pictures).score - [pixels.mean() / 255 for pixels in pictures]
    assert changes == pytest.approx([-0.25, 0], abs=0.01)


@pytest.mark.parametrize("lines", [2 * VIEW, 3 * VIEW])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_fine_view_is_cut_from_the_picture_at_a_larger_scale(
    photo: Image.Image, orientation: int, lines: int
) -> None:
    wide = photo.resize((700, 330))
    exif = Image.Exif()
    exif[0x0112] = orientation
    small = photo.resize((100, 140))
    images = [encode(wide, "JPEG", exif=exif.tobytes()), encode(small, "PNG"), b"no image", encode(wide, "PNG")]
    fine, alone = (
        list(create(options, limits=Limits()).stream(Encoded(b"", data) for data in images))
        for options in (DecodeOptions(VIEW, fine=lines), DecodeOptions(lines))
    )
    plain = list(create(DecodeOptions(VIEW)).stream(Encoded(b"", data) for data in images))
    assert [found.fine for found in fine] == [True, False, False, True] and not any(found.fine for found in plain)
    for found, other in zip(fine, plain, strict=True):
        count = len(found.views) - found.fine
        assert np.array_equal(found.views[:count], other.views) and found.hash == other.hash
    for i in (0, 3):
        larger = views.joined(alone[i].views, alone[i].width, alone[i].height)
        assert min(larger.shape[:2]) == lines
        assert np.array_equal(fine[i].views[-1:], views.fine_view(larger, VIEW))
