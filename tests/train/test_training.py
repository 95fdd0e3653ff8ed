"""Training: a run that survives a kill, fine-tuning on cached activations, pretraining, a bundle in one command."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.testing import assert_allclose
from PIL import Image

from metaqap_fast import Scorer
from metaqap_fast.cli import main
from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.evaluation import plcc
from metaqap_fast.train.features import Cache, cached, middle_views, predict_files
from metaqap_fast.train.finetune import Order, finetune
from metaqap_fast.train.ladders import RUNGS, ladders, order_loss
from metaqap_fast.train.loop import Group, Plan, fit, learning_rate, rows_of
from metaqap_fast.train.member import Features
from metaqap_fast.train.networks import Config, read_config
from metaqap_fast.train.pretrain import Pretraining, first_network, pretrain, sample
from metaqap_fast.train.recipe import Recipe, recipe_for
from metaqap_fast.train.ridge import fit_ridge

pytestmark = pytest.mark.full

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=2, batch=4, frozen_stages=9, lr=1e-3, head_lr=1e-3, dropout=0.0, probe_penalty=1.0)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    path = tmp_path_factory.mktemp("config") / "tiny.toml"
    path.write_text(
        'architecture = "mobilenetv2_035"\nsize = 512\nmean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\n'
        '[weights]\nsource = "none"\n[recipe]\nepochs = 1\nbatch = 4\nladders = 12\n[recipe.cpu]\nfrozen_stages = 9\n'
    )
    torch.manual_seed(0)
    return replace(read_config(path), name=str(path))


@pytest.fixture(scope="module")
def features(config: Config) -> Features:
    torch.manual_seed(0)
    return Features(config, first_network(config))


@pytest.fixture(scope="module")
def table(
    tmp_path_factory: pytest.TempPathFactory, photos: dict[str, Image.Image]
) -> tuple[Path, list[Path], np.ndarray]:
    """90 crops of a photograph, blurred by less the higher their MOS, and their csv."""
    root = tmp_path_factory.mktemp("set")
    picture = photos["astronaut"]
    rng = np.random.default_rng(0)
    mos = np.round(rng.uniform(1, 5, 90), 3)
    files = []
    for i, value in enumerate(mos):
        x, y = (int(v) for v in rng.integers(0, 200, 2))
        size = round(40 + 50 * value)
        small = picture.crop((x, y, x + 300, y + 300)).resize((size, size)).resize((512, 512))
        files.append(root / f"{i:02}.png")
        small.save(files[-1])
    with open(root / "mos.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image", "mos"), *((f.name, m) for f, m in zip(files, mos, strict=True))])
    return root / "mos.csv", files, (mos - 1) / 4


@pytest.fixture(scope="module")
def cache(
    features: Features, table: tuple[Path, list[Path], np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Cache:
    views = partial(middle_views, table[1])
    return cached(features, views, 90, tmp_path_factory.mktemp("cache"), RECIPE.frozen_stages, CPU)


def problem() -> tuple[torch.nn.Linear, list[Group]]:
    torch.manual_seed(1)
    layer = torch.nn.Linear(8, 1)
    return layer, [Group([layer.weight], 0.1, 0.01), Group([layer.bias], 0.1)]


def train(run: Path, plan: Plan, stop: int | None = None) -> torch.Tensor:
    layer, groups = problem()

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        if step == stop:
            raise KeyboardInterrupt
        x = torch.randn(16, 8, generator=generator)
        return (torch.dropout(layer(x), 0.5, True) - x.sum(1, keepdim=True)).square().mean()

    fit(run, groups, loss, plan, lambda: {"weight": float(layer.weight.detach().sum())})
    return layer.weight.detach()


def test_a_stopped_run_ends_at_the_weights_of_an_uninterrupted_one(tmp_path: Path) -> None:
    plan = Plan(steps=60, seed=3, validate_every=25, checkpoint_every=10, log_every=5)
    whole = train(tmp_path / "whole", plan)
    for stop in (17, 44):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "parts", plan, stop)
    assert torch.equal(train(tmp_path / "parts", plan), whole)
    logs = [(tmp_path / name / "log.csv").read_text().splitlines() for name in ("whole", "parts")]
    assert [line.split(",")[0] for line in logs[0]] == [line.split(",")[0] for line in logs[1]]
    assert len(logs[0]) == 13 and (tmp_path / "whole" / "curve.png").stat().st_size > 1000
    assert torch.equal(train(tmp_path / "whole", plan, stop=0), whole)  # finished: read back, no step is taken


def test_a_run_refuses_another_run_s_checkpoint_and_a_loss_that_is_no_number(tmp_path: Path) -> None:
    train(tmp_path / "run", Plan(steps=5, seed=3))
    with pytest.raises(MetaqapError, match="another run"):
        train(tmp_path / "run", Plan(steps=6, seed=3))
    _, groups = problem()
    with pytest.raises(MetaqapError, match="loss of step 0 is nan"):
        fit(tmp_path / "nan", groups, lambda step, g: groups[0].parameters[0].sum() * torch.nan, Plan(5, 0))


def test_rows_of_an_epoch_are_a_permutation() -> None:
    epochs = [np.concatenate([rows_of(e * 5 + s, 23, 4, seed=1) for s in range(5)]) for e in range(2)]
    assert all(len(set(epoch)) == 20 for epoch in epochs) and not np.array_equal(*epochs)
    assert not np.array_equal(rows_of(0, 23, 4, seed=2), rows_of(0, 23, 4, seed=1))


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    rates = [learning_rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and max(rates) > 0.99 and rates[-1] < 1e-3
    assert rates[5:] == sorted(rates[5:], reverse=True)


def test_without_steps_the_fine_tuned_member_is_its_probe(
    features: Features, cache: Cache, table: tuple[Path, list[Path], np.ndarray], tmp_path: Path
) -> None:
    # Cached activations, standardisation and export take the probe through unchanged.
    _, files, mos = table
    rows = np.arange(20)
    still = replace(RECIPE, lr=0.0, head_lr=0.0, weight_decay=0.0)
    tuned = finetune(tmp_path, features, cache, None, mos, rows, still, CPU, 0, np.arange(20, 30))
    probe = fit_ridge(np.asarray(cache.pooled[:20]), mos[:20], rows % 2, [RECIPE.probe_penalty])
    expected = cache.pooled[20:30] @ probe.weights + probe.bias
    assert_allclose(tuned.predictions, expected, atol=0.02)  # bf16
    assert_allclose(predict_files(tuned.member, files[20:30], CPU), expected, atol=2e-3)


def test_fine_tuning_learns_and_reads_no_other_row_s_mos(
    features: Features, cache: Cache, table: tuple[Path, list[Path], np.ndarray], tmp_path: Path
) -> None:
    mos = table[2].copy()
    mos[20:] = np.nan  # would spread
    rows = np.arange(20)
    recipe = replace(RECIPE, epochs=12, probe_penalty=100.0)  # in bf16, whose rounding differs between CPUs
    tuned = finetune(tmp_path, features, cache, None, mos, rows, recipe, CPU, 0, np.empty(0, np.int64))
    probe = fit_ridge(np.asarray(cache.pooled[:20]), mos[:20], rows % 2, [100.0])
    before = np.square(cache.pooled[:20] @ probe.weights + probe.bias - mos[:20]).mean()
    after = np.square(predict_files(tuned.member, table[1][:20], CPU) - mos[:20]).mean()
    assert after < 0.7 * before
    frozen, trained = features.network.stages, tuned.member.features.network.stages
    for stage, (old, new) in enumerate(zip(frozen, trained, strict=True)):
        same = all(torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters(), strict=True))
        assert same == (stage < RECIPE.frozen_stages)


@pytest.mark.nightly
def test_ladders_teach_their_order_and_only_those_of_training_rows(
    features: Features, cache: Cache, table: tuple[Path, list[Path], np.ndarray], tmp_path: Path
) -> None:
    climbed = np.arange(0, 30, 2)

    def views() -> Iterator[np.ndarray]:
        return ladders(middle_views([table[1][row] for row in climbed]), seed=7)

    seen = cached(features, views, RUNGS * len(climbed), tmp_path / "cache", RECIPE.frozen_stages, CPU)
    rungs = list(views())
    training = 10  # ladders of rows below 20
    seen = Cache(seen.pooled, seen.activation.copy(), seen.stage)
    seen.activation[RUNGS * training :] = np.nan  # would spread

    def disorder(weight: float) -> float:
        """What the five ladders that were not trained on lack of their order."""
        recipe = replace(RECIPE, epochs=8, order_weight=weight)
        order = Order(climbed, seen)
        run = tmp_path / str(weight)
        tuned = finetune(run, features, cache, order, table[2], np.arange(20), recipe, CPU, 0, np.empty(0, np.int64))
        with torch.no_grad():
            predicted = tuned.member(torch.from_numpy(np.stack(rungs[RUNGS * training :])))
        return float(order_loss(predicted[:, 0]))

    assert disorder(1.0) < 0.7 * disorder(0.0)


def test_recipes_are_checked() -> None:
    config = read_config("mobilenetv2")
    assert recipe_for(config, "frozen") is None and recipe_for(config, "cpu", epochs=0) is None
    assert recipe_for(config, "gpu", frozen_stages=2).frozen_stages == 2  # type: ignore[union-attr]
    wrong = ({"loss": "huber"}, {"batch": 1}, {"dropout": 1.0}, {"momentum": 0.9}, {"folds": 6}, {"order_batch": 0})
    for changes in wrong:
        with pytest.raises(UsageError, match="recipe"):
            recipe_for(config, "gpu", **changes)


def test_pretraining_samples_are_functions_of_their_step(photos: dict[str, Image.Image]) -> None:
    photographs = [np.asarray(photos["astronaut"]), np.asarray(photos["chelsea"])[:, :300]]
    settings = Pretraining(batch=8, crop=192)
    first, again, other = (sample(photographs, settings, step, 8) for step in (5, 5, 6))
    assert torch.equal(first.views, again.views) and torch.equal(first.target, again.target)
    assert not torch.equal(first.views, other.views)
    assert first.views.shape == (8, 192, 192, 3)
    many = sample(photographs, settings, 0, 60)
    assert (many.target[many.kind == 0] == 1).all() and (many.kind == 0).any()
    assert many.target.min() < 0.3 and ((many.target >= 0) & (many.target <= 1)).all()


@pytest.mark.nightly
def test_pretraining_leaves_a_network_to_start_from(
    config: Config, photos: dict[str, Image.Image], tmp_path: Path
) -> None:
    for i, name in enumerate(("astronaut", "chelsea", "coffee")):
        photos[name].save(tmp_path / f"{i}.png")
    settings = Pretraining(steps=3, batch=4, lr=1e-3)
    torch.manual_seed(0)
    path = pretrain(tmp_path / "run", config, sorted(tmp_path.glob("*.png")), settings, CPU)
    stored = torch.load(path, weights_only=True)
    assert set(stored["metrics"]) == {"srocc", "plcc", "kind", "level"} and stored["heads"]["weight"].shape[0] == 32
    network = first_network(config, tmp_path / "run")
    for key, value in network.state_dict().items():
        assert torch.equal(value, stored["network"][key].float()), key
    with pytest.raises(UsageError, match="is of"):
        first_network(read_config("mobilenetv2"), tmp_path / "run")
    with pytest.raises(UsageError, match="pretrain"):
        first_network(config, tmp_path)


def test_a_bundle_in_one_command(config: Config, table: tuple[Path, list[Path], np.ndarray], tmp_path: Path) -> None:
    out, work = tmp_path / "bundle", tmp_path / "work"
    command = ["train", "run", str(table[0]), "--data", "csv", "--low", "1", "--high", "5", "--networks", config.name]
    command += ["-o", str(out), "--work", str(work), "--budget", "cpu", "--device", "cpu", "--seed", "1"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    document = json.loads((out / "bundle.json").read_text())
    assert document["training"]["images"] == 72 and document["training"]["split_seed"] == 1
    assert document["members"][0]["recipe"]["frozen_stages"] == 9
    lines = (work / "test.txt").read_text().split()
    score = Scorer(str(out), precision="fp32").score_bytes([Path(line).read_bytes() for line in lines])
    assert len(lines) == 18 and np.isfinite(score.score).all()
    digests = document["files"]
    assert CliRunner().invoke(main, command).exit_code == 0  # read back from finished runs
    assert json.loads((out / "bundle.json").read_text())["files"] == digests


@pytest.mark.nightly
def test_an_ablation_in_one_command(
    config: Config, table: tuple[Path, list[Path], np.ndarray], photos: dict[str, Image.Image], tmp_path: Path
) -> None:
    data, work = [str(table[0]), "--data", "csv", "--low", "1", "--high", "5"], ["--work", str(tmp_path / "work")]
    (tmp_path / "photographs").mkdir()
    for name in ("astronaut", "chelsea"):
        photos[name].save(tmp_path / "photographs" / f"{name}.png")
    pretraining = ["train", "pretrain", str(tmp_path / "photographs"), "-o", str(tmp_path / "pre")]
    result = CliRunner().invoke(main, [*pretraining, "--networks", config.name, "--steps", "1"])
    assert result.exit_code == 0, result.output
    run = Path(result.stdout.strip()).parent
    command = ["train", "ablation", *data, *work, "-o", str(tmp_path / "out"), "--network", config.name, "--test"]
    result = CliRunner().invoke(
        main, [*command, "--networks", config.name, "--pretraining", str(run), "--device", "cpu"]
    )
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "out" / "ablation.json").read_text())["rows"]
    names = [row["name"].rpartition(", ")[2] for row in rows]
    assert names[:6] == ["frozen", "quality-aware", "without ladders", "mse", "softmax-pearson", "soft-spearman"]
    assert [name.split(":")[0] for name in names[-3:]] == ["single best member", "plain average", "meta-learner (full)"]
    assert len(rows) == 11 and all(abs(row["test"]["plcc"]) <= 1 for row in rows)
    assert rows[0]["images"] == 72 and rows[1]["images"] < 30  # all folds in closed form; one fold trained
    assert (tmp_path / "out" / "ablation.md").read_text().count("\n") == 13
    assert (tmp_path / "out" / "ablation.md").read_text() in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "kodak"], "unknown data set 'kodak'"),
        (["--data", "csv"], "--low and --high"),
        (["--data", "csv", "--low", "1", "--high", "2"], "outside 1..2"),
        (["--data", "csv", "--low", "1", "--high", "5", "--networks", "vgg"], "unknown network 'vgg'"),
        (["--data", "csv", "--low", "1", "--high", "5", "--device", "tpu"], "device"),
        (["--data", "csv", "--low", "1", "--high", "5", "--device", "cuda:7"], "CUDA devices are there"),
        (["--data", "csv", "--low", "1", "--high", "5", "--set", "epochs"], "not ENTRY=VALUE"),
        (["--data", "csv", "--low", "1", "--high", "5", "--set", "epoch=3"], "no entry 'epoch'"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(
    arguments: list[str], message: str, table: tuple[Path, list[Path], np.ndarray], tmp_path: Path
) -> None:
    out = ["-o", str(tmp_path / "bundle"), "--work", str(tmp_path / "work")]
    result = CliRunner().invoke(main, ["train", "run", str(table[0]), *arguments, *out])
    assert result.exit_code == 2 and message in result.output and result.output.count("\n") == 1, result.output


def test_plcc_of_the_miniature_is_learnable(cache: Cache, table: tuple[Path, list[Path], np.ndarray]) -> None:
    head = fit_ridge(np.asarray(cache.pooled), table[2], np.arange(90) % 5, [1.0])
    assert plcc(head.out_of_fold, table[2]) > 0.5  # else the tests above would show nothing
