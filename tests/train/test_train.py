"""The parts of training that have a right answer: ridge, folds, meta-learner, twins, export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.testing import assert_allclose

from metaqap_fast.engine.openvino_core import shared_core
from metaqap_fast.errors import MetaqapError
from metaqap_fast.evaluation import plcc
from metaqap_fast.train.build import compress
from metaqap_fast.train.features import export_onnx
from metaqap_fast.train.member import Features, Member
from metaqap_fast.train.meta import calibrate, stepwise
from metaqap_fast.train.networks import load_network, read_config
from metaqap_fast.train.pooling import fast_pool, pool
from metaqap_fast.train.pretrain import first_network
from metaqap_fast.train.ridge import CONSTANT, fit_ridge, grouped_folds
from metaqap_fast.train.trainee import exact_depthwise, half_where_faster
from metaqap_fast.train.twins import groups, similar

pytestmark = pytest.mark.full

RNG = np.random.default_rng(0)


def problem(n: int = 300, d: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = RNG.normal(size=(n, d)) * RNG.uniform(0.1, 10, d) + RNG.normal(size=d)
    y = x @ RNG.normal(size=d) / 30 + 0.5 + 0.1 * RNG.normal(size=n)
    return x.astype(np.float32), y, RNG.integers(0, 5, n)


def test_out_of_fold_predictions_are_those_of_refitted_models() -> None:
    x, y, folds = problem()
    head = fit_ridge(x, y, folds, [0.1])
    z = np.column_stack([(x - x.mean(0)) / x.std(0) / np.sqrt(x.shape[1]), np.full(len(x), np.sqrt(CONSTANT))])
    z = z.astype(np.float64)
    for fold in range(5):
        train = folds != fold
        gram = z[train].T @ z[train] + 0.1 * np.eye(z.shape[1])
        weights = np.linalg.solve(gram, z[train].T @ (y[train] - y.mean()))
        assert_allclose(head.out_of_fold[~train], z[~train] @ weights + y.mean(), atol=2e-4)


def test_head_predicts_from_raw_features() -> None:
    x, y, folds = problem()
    x[:, 3] = 7.0  # a constant column
    head = fit_ridge(x, y, folds, [1e-3])
    assert head.weights[3] == 0
    assert plcc(x @ head.weights + head.bias, y) > plcc(head.out_of_fold, y) > 0.9


def test_the_penalty_is_chosen_out_of_fold() -> None:
    # Every column repeats one signal; what they differ in is noise, on which a small penalty overfits.
    signal = RNG.normal(size=200)
    x = (signal[:, None] + 0.3 * RNG.normal(size=(200, 400))).astype(np.float32)
    y = signal + RNG.normal(size=200)
    folds = RNG.integers(0, 5, 200)
    assert fit_ridge(x, y, folds, [1e-4, 1.0]).alpha == fit_ridge(x, y, folds, [1.0, 1e-4]).alpha == 1.0


def test_groups_share_a_fold() -> None:
    group = groups(8, [(0, 3), (3, 5), (6, 7)])
    assert len({group[0], group[3], group[5]}) == 1 and group[6] == group[7] and len(set(group)) == 5
    folds = grouped_folds(RNG.integers(0, 50, 1000), 5, seed=1)
    assert set(folds) == set(range(5))


def test_meta_learner_rejects_noise() -> None:
    rejected, n = 0, 4000
    for seed in range(20):
        rng = np.random.default_rng(seed)
        y = rng.normal(size=n)
        good = np.column_stack([y + rng.normal(size=n), y + rng.normal(size=n)])
        noise = rng.normal(size=(n, 3))
        learner = stepwise(np.column_stack([noise[:, :1], good, noise[:, 1:]]), y, rng.integers(0, 5, n))
        assert learner.weights[1] > 0.2 and learner.weights[2] > 0.2
        rejected += not learner.weights[[0, 3, 4]].any()
    assert rejected == 20


def test_a_meta_learner_of_noise_alone_is_an_error() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(MetaqapError, match=r"no network says anything of the opinion scores: .* over 500 images"):
        stepwise(rng.normal(size=(500, 2)), rng.normal(size=500), rng.integers(0, 5, 500))


def test_meta_learner_keeps_one_of_two_copies() -> None:
    y = RNG.normal(size=500)
    one = y + RNG.normal(size=500)
    learner = stepwise(np.column_stack([one, one]), y, RNG.integers(0, 5, 500))
    assert (learner.weights != 0).sum() == 1


def test_calibrated_uncertainty_covers() -> None:
    count = 100_000  # with a fifth of it, the mean error below is over .002 in one draw of three
    spread = RNG.gamma(2, 0.05, count)
    score = RNG.uniform(size=count)
    truth = np.interp(score, [0.1, 0.5, 0.9], [0.02, 0.01, 0.002]) + 2 * spread**2
    y = score + RNG.normal(size=count) * np.sqrt(truth)
    points, slope = calibrate(score, spread, y)
    floor = np.interp(score, *zip(*points, strict=True))
    assert np.abs(floor - (truth - 2 * spread**2)).mean() < 0.002 and slope == pytest.approx(2, rel=0.15)
    sigma = np.sqrt(floor + slope * spread**2)
    for low in (0.0, 0.5, 0.9):  # not only on average
        some = (score > low) & (score < low + 0.1)
        assert (np.abs(y - score) < sigma)[some].mean() == pytest.approx(0.683, abs=0.04)


def test_no_score_is_certain() -> None:
    score = RNG.uniform(size=2_000)
    exact = score > 0.5  # by chance without an error
    points, _ = calibrate(score, np.zeros(2_000), score + np.where(exact, 0, RNG.normal(0, 0.1, 2_000)))
    assert min(variance for _, variance in points) > 1e-4


def test_twins() -> None:
    thumbnails = RNG.uniform(0, 255, (6, 32, 32)).astype(np.float32)
    thumbnails = np.cumsum(thumbnails, axis=2) % 200  # structure, so that hashes differ
    thumbnails[4] = thumbnails[1] * 0.95 + 4  # the same picture, a little darker
    assert similar(thumbnails) == [(1, 4)]


@pytest.mark.parametrize("name", ["mobilenetv2", "efficientnet_lite1"])
def test_features_are_those_of_the_network(name: str) -> None:
    config = read_config(name)
    features, network = Features(config, first_network(config)), load_network(config)
    image = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        out = features(image)
        last = network.taps(features.preprocess(image))[-1]  # not folded, not rounded
    assert out.shape == (2, 3 * sum(network.widths()))
    expected = pool(last)
    got = out[:, -expected.shape[1] :]
    assert_allclose(got, expected, atol=0.2)  # weights rounded to fp16
    assert (got - expected).abs().mean() < 0.005
    assert all(torch.equal(p, p.half().float()) for p in features.parameters())


def test_exported_member_is_the_module(tmp_path: Path) -> None:
    config = read_config("efficientnet_lite0")
    features = Features(config, first_network(config))
    d = 3 * sum(features.network.widths())
    member = Member(features, RNG.normal(size=d) / d, 0.4)
    path = tmp_path / "m.onnx"
    export_onnx(member, path)
    full = path.stat().st_size
    compress(path)
    assert path.stat().st_size < 0.6 * full
    image = RNG.integers(0, 256, (2, 512, 512, 3), dtype=np.uint8)
    model = shared_core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with torch.no_grad():
        expected = member(torch.from_numpy(image)).numpy()
    assert_allclose(model({0: image})[0], expected, atol=1e-4)
    assert "Pad" not in {node.op_type for node in onnx.load(path).graph.node}


def test_fast_pool_is_pool() -> None:
    x = torch.randn(2, 5, 6, 7, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 15, dtype=torch.float64)
    (pool(x) * weights).sum().backward()
    expected, x.grad = x.grad, None
    pooled = fast_pool(x)
    assert_allclose(pooled.detach(), pool(x).detach(), atol=1e-5)  # fast_pool's sums are fp32
    (pooled * weights).sum().backward()
    assert_allclose(x.grad, expected, atol=1e-5)


@pytest.mark.parametrize("has_bf16", [True, False])
def test_bf16_only_where_the_cpu_multiplies_in_it(has_bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a training step computes in, 5x5 depthwise convolutions too: imitated bf16 takes ten times as long."""
    monkeypatch.setattr("metaqap_fast.train.trainee.multiplies_in", lambda precision: has_bf16)
    cpu, conv, depthwise = torch.device("cpu"), torch.nn.Conv2d(4, 4, 1), torch.nn.Conv2d(4, 4, 5, groups=4)
    layers = torch.nn.Sequential(conv, depthwise)
    with exact_depthwise(layers, cpu), half_where_faster(cpu):
        assert layers(torch.ones(1, 4, 8, 8)).dtype == (torch.bfloat16 if has_bf16 else torch.float32)
