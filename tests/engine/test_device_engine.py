"""Engines that keep predictions on a device: batches, memory that runs out, a device that goes; on the CPU."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from metaqap_fast.engine.cuda import Gpu
from metaqap_fast.engine.gpu import torch_engine
from metaqap_fast.engine.gpu.engine import DeviceEngine, fitting, together
from metaqap_fast.engine.openvino_engine import OpenVINOEngine
from metaqap_fast.errors import MetaqapError
from metaqap_fast.gpu_errors import GpuLost
from metaqap_fast.infer import scored, view_means
from metaqap_fast.input.files import Listing
from metaqap_fast.model import bundle as bundles
from metaqap_fast.model.meta import MetaLearner, combine
from metaqap_fast.model.readout import Readout
from metaqap_fast.records import DeviceViews, LaneBatch
from metaqap_fast.run import run
from metaqap_fast.scorer import Scorer
from metaqap_fast.scores.table import ScoreTable

META = MetaLearner((0.5, 0.25), 0.1, ((0.0, 0.01),), 2.0)
READOUT = Readout((0, 1))


class Means:
    """A runner whose members are the mean and the largest pixel; counts its calls, fails when it is told to."""

    columns = 2
    stream = None

    def __init__(self, batch: int, fails: dict[int, Exception] | None = None, holds: int = 1000, size: int = 4) -> None:
        if batch > holds:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.fails, self.runs, self.closed = fails or {}, 0, False
        self.image = torch.zeros(batch, size, size, 3, dtype=torch.uint8)

    def run(self) -> Tensor:
        self.runs += 1
        if error := self.fails.get(self.runs):
            raise error
        pixels = self.image.float().flatten(1)
        self._out = torch.stack([pixels.mean(1), pixels.amax(1)], 1) / 255  # reused memory, as on a GPU
        return self._out

    def close(self) -> None:
        self.closed = True


def engine(runner: Means) -> DeviceEngine:
    return DeviceEngine(runner, "torch", "fp32", "cuda:0: Test", None)


def images(*counts: int) -> list[tuple[int, np.ndarray]]:
    random = np.random.default_rng(1)
    return [(i, random.integers(0, 256, (n, 4, 4, 3), np.uint8)) for i, n in enumerate(counts)]


def expected(views: np.ndarray) -> list[float]:
    flat = views.reshape(len(views), -1)
    return [flat.mean(1).mean() / 255, flat.max(1).mean() / 255]


@pytest.mark.parametrize("counts", [(1, 1, 1, 1, 1), (3, 0, 2, 9, 1), (0,), (20,), (0, 0, 4), ()])
@pytest.mark.parametrize("batch", [1, 4, 64])
def test_any_grouping_gives_each_image_its_own_score(counts: tuple[int, ...], batch: int) -> None:
    items = images(*counts)
    results = list(scored(engine(Means(batch)), items, META, READOUT))
    assert [tag for tag, _ in results] == list(range(len(counts)))
    for (_, views), (_, result) in zip(items, results, strict=True):
        if not len(views):
            assert np.isnan([*result.members, result.score]).all()
            continue
        assert result.members == pytest.approx(expected(views), abs=1e-5)
        score, uncertainty = combine(result.members[None], META)
        assert (result.score, result.uncertainty) == pytest.approx((score[0], uncertainty[0]), abs=1e-6)


def test_batches_are_full() -> None:
    runner = Means(8)
    list(engine(runner).batches(images(*[1] * 20)))
    assert runner.runs == 3


def test_views_that_lie_side_by_side_on_the_device_are_one_copy() -> None:
    one, other = (LaneBatch(torch.zeros(6, 4, 4, 3, dtype=torch.uint8), None, 4) for _ in range(2))
    array = np.zeros((2, 4, 4, 3), np.uint8)
    parts = [(one, 0, 1), (one, 1, 3), (one, 3, 3), (other, 3, 4), (other, 5, 6), (one, 3, 4)]
    waiting = [DeviceViews(*part) for part in parts]
    found = list(together([array[:0], *waiting[:4], array, *waiting[4:]]))
    assert found == [DeviceViews(one, 0, 3), waiting[3], array, waiting[4], waiting[5]]


def test_batches_are_run_as_images_come(  # an image must not wait for the whole stream
) -> None:
    taken: list[int] = []

    def source() -> Iterator[tuple[int, np.ndarray]]:
        for tag, views in images(*[1] * 100):
            taken.append(tag)
            yield tag, views

    next(scored(engine(Means(4)), source(), META, READOUT))
    assert len(taken) <= 3 * 4


def test_the_mean_of_views_is_the_same_bits_in_any_batch() -> None:
    torch.manual_seed(0)
    views = torch.rand(7, 3)
    alone = view_means(views, [7], [False])[0]
    for before in (0, 1, 5):
        together = view_means(
            torch.cat([torch.rand(before, 3), views, torch.rand(2, 3)]), [1] * before + [7, 2], [False] * (before + 2)
        )[0]
        assert torch.equal(together[before], alone[0])


def test_full_memory_halves_the_batch_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        runner = fitting(lambda batch: Means(batch, holds=16), 64, "cuda:0: Test")
    assert len(runner.image) == 16
    assert [record.message for record in caplog.records] == [
        "cuda:0: Test has too little memory for 64 views at once: going on with 32",
        "cuda:0: Test has too little memory for 32 views at once: going on with 16",
    ]


def test_no_memory_for_one_view_is_an_error() -> None:
    with pytest.raises(MetaqapError, match="too little free memory for a single view"):
        fitting(lambda batch: Means(batch, holds=0), 2, "cuda:0: Test")


def test_memory_that_runs_out_later_is_one_line() -> None:
    runner = Means(2, fails={1: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")})
    with pytest.raises(MetaqapError, match=r"^cuda:0: Test has no memory left: .* go on with --resume, or use a small"):
        list(engine(runner).predict(images(1)))


def test_a_lost_gpu_is_one_line_that_says_how_to_go_on() -> None:
    runner = Means(2, fails={2: RuntimeError("CUDA error: unspecified launch failure\nCompile with ...")})
    stream = engine(runner).predict(images(1, 1, 1, 1))
    assert [next(stream)[0], next(stream)[0]] == [0, 1]
    with pytest.raises(GpuLost, match=r"launch failure. Rows committed so far are safe; go on with --resume$"):
        next(stream)


def test_a_lost_gpu_costs_no_committed_row(bundle: Path, folder: Path, tmp_path: Path) -> None:
    scorer = Scorer(str(bundle), precision="fp32", batch_size=1)
    scorer.engine = engine(Means(2, fails={4: RuntimeError("CUDA error: device unavailable")}, size=64))
    with pytest.raises(GpuLost):
        run(scorer, Listing([folder]), tmp_path / "s.h5")
    (part,) = (tmp_path / "s.h5.parts").glob("part-*.h5")
    kept = ScoreTable.read(part)
    assert 0 < len(kept) < 13
    scorer.engine = engine(Means(2, size=64))
    summary = run(scorer, Listing([folder]), tmp_path / "s.h5", "resume")
    whole = ScoreTable.read(tmp_path / "s.h5")
    assert (summary.done, len(whole), int(whole.ok.sum())) == (len(kept), 13, 10)
    assert set(kept.keys) <= set(whole.keys)


def test_other_errors_are_not_dressed_up() -> None:
    with pytest.raises(RuntimeError, match="a bug") as caught:
        list(engine(Means(2, fails={1: RuntimeError("a bug")})).predict(images(1)))
    assert not isinstance(caught.value, MetaqapError)


def test_torch_engine_agrees_with_openvino(bundle: Path) -> None:
    loaded = bundles.load(str(bundle))
    views = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    items = [(0, views[:2]), (1, views[:0]), (2, views[2:])]
    torches, openvino = torch_engine.create(loaded, "auto", None), OpenVINOEngine(loaded, "fp32")
    assert (torches.name, torches.precision) == ("torch", "fp32")
    for (tag, ours), (same, theirs) in zip(torches.predict(items), openvino.predict(items), strict=True):
        assert tag == same and ours.shape == theirs.shape and np.abs(ours - theirs).max(initial=0) < 1e-5


def test_where_torch_cannot_compile_the_networks_run_as_they_are(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A slim machine has no C compiler; its GPU works all the same."""
    made: list[str] = []

    def runner(network: Any, *sizes: Any) -> Means:
        made.append(network if isinstance(network, str) else "plain")
        if network == "compiled":
            raise RuntimeError("InductorError: RuntimeError: Failed to find C compiler.\nMore")
        return Means(2)

    monkeypatch.setattr(torch_engine, "TorchRunner", runner)
    monkeypatch.setattr(torch_engine, "module", lambda graph: torch.nn.Identity())
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: self)
    monkeypatch.setattr(torch, "compile", lambda network, dynamic: "compiled")
    for name, value in (("benchmark", False), ("deterministic", True), ("allow_tf32", True)):
        monkeypatch.setattr(torch.backends.cudnn, name, value)
    engine = torch_engine.create(bundles.load(str(bundle)), "fp16", Gpu(0, "NVIDIA Test", 90, 1 << 30))
    assert made == ["compiled", "plain"] and engine.device_id == 0
    assert "Failed to find C compiler. Running them as they are" in caplog.text
    backend = torch.backends.cudnn  # the fastest kernels for fp16, and no other precision than was asked for
    assert (backend.benchmark, backend.deterministic, backend.allow_tf32) == (True, False, False)
