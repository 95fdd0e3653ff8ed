"""Training goes on from a bundle's member: its network and its head, as they are stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from metaqap_fast.errors import UsageError
from metaqap_fast.model import bundle as bundles
from metaqap_fast.train.build import compress
from metaqap_fast.train.features import export_onnx
from metaqap_fast.train.member import Features, Member
from metaqap_fast.train.members import Examples, train_member
from metaqap_fast.train.networks import Config, read_config
from metaqap_fast.train.pretrain import first_network
from metaqap_fast.train.recipe import Recipe
from metaqap_fast.train.shipped import shipped_head, shipped_network


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    path = tmp_path_factory.mktemp("config") / "tiny.toml"
    path.write_text(
        'architecture = "mobilenetv2_035"\nsize = 512\nmean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\n'
        '[weights]\nsource = "none"\n'
    )
    return replace(read_config(path), name=str(path))


def test_a_member_comes_back_as_it_was_stored(config: Config, tmp_path: Path) -> None:
    torch.manual_seed(3)
    features = Features(config, first_network(config))
    with torch.no_grad():
        for parameter in features.network.parameters():  # equal ones, as before training, are stored once
            parameter.copy_((parameter + 0.01 * torch.randn_like(parameter)).half())
    weights = np.random.default_rng(1).normal(0, 0.1, 3 * sum(features.network.widths()))
    path = tmp_path / "tiny.onnx"
    export_onnx(Member(features, weights, 0.25), path)
    compress(path)
    network, (again, bias) = shipped_network(path, config), shipped_head(path)
    for key, value in features.network.state_dict().items():
        assert torch.equal(network.state_dict()[key], value), key
    assert again == pytest.approx(weights, abs=1e-6) and bias == 0.25
    with pytest.raises(UsageError, match="not a member of the architecture mobilenetv2_100"):
        shipped_network(path, read_config("mobilenetv2"))
    with pytest.raises(UsageError, match="does not exist"):
        shipped_head(tmp_path / "other.onnx")


@pytest.mark.parametrize("recipe", [Recipe(folds=5, refit=False), Recipe(folds=1, refit=True), None])
def test_no_fold_is_trained_on_that_the_member_was_judged_by(
    config: Config, recipe: Recipe | None, tmp_path: Path
) -> None:
    data = Examples([], np.zeros(0), np.zeros(0, np.int64), 0)
    with pytest.raises(UsageError, match="goes on with the fold that it held out"):
        train_member(f"{config.name}@{tmp_path}/member.onnx", data, recipe, tmp_path, torch.device("cpu"))


@pytest.mark.parametrize("member", bundles.load().members, ids=lambda member: member.name)
def test_the_shipped_members_can_go_on(member: bundles.Member) -> None:
    network = shipped_network(member.file, read_config(member.name))
    assert 3 * sum(network.widths()) == len(shipped_head(member.file)[0])
