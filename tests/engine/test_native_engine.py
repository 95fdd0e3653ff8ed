"""The native engine around its kernel: streams of images, threads, and when it is chosen or refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from metaqap_fast import engine as engines
from metaqap_fast.engine import cpu
from metaqap_fast.engine.native import engine as native
from metaqap_fast.engine.native import library as kernel
from metaqap_fast.engine.native.engine import NativeEngine
from metaqap_fast.engine.native.isa import Isa, paths
from metaqap_fast.engine.native.kernel import Kernel
from metaqap_fast.engine.native.reader import Unsuited
from metaqap_fast.engine.samples import generated
from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.model import bundle as bundles
from metaqap_fast.model.bundle import Bundle, Member
from metaqap_fast.model.meta import MetaLearner
from metaqap_fast.train.ranges import measure_ranges
from native_reference import KINDS, exported, member, need

VIEWS = generated(512, 6)
META = MetaLearner((0.5, 0.5), 0.0, ((0.0, 0.01),), 1.0)


def bundle_of(folder: Path, *activations: type[nn.Module]) -> Bundle:
    """A bundle with a small network for each activation."""
    members = []
    for i, activation in enumerate(activations):
        made = member(["ds_r1_k3_s2_e1_c16", "ir_r1_k5_s2_e6_c24"], 96 + 16 * i, activation=activation, views=VIEWS[:2])
        path = folder / f"member{i}.onnx"
        exported(made, path)
        members.append(Member(f"member{i}", path, measure_ranges(path, VIEWS[:2])))
    return Bundle("small", folder, tuple(members), META, 512, "", {})


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_of(tmp_path_factory.mktemp("small"), nn.ReLU6, nn.ReLU6)


@pytest.fixture
def engine(small: Bundle) -> Iterator[NativeEngine]:
    need(Isa.AVX2, "fp32")
    engine = NativeEngine(small, threads=2)
    yield engine
    engine.close()


def rows(engine: NativeEngine, views: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Predictions of views one at a time."""
    return np.concatenate([found for view in views for _, found in engine.predict([(0, view[None])])])


@KINDS
def test_threads_order_and_company_of_a_view(small: Bundle, isa: Isa, precision: str) -> None:
    need(isa, precision)
    size = 96 if isa == Isa.PORTABLE else 512  # plain C takes seconds for what the others do in a moment
    bundle, views, found = replace(small, view_size=size), generated(size, 6), set()
    for threads in (1, 2, 5):
        engine = NativeEngine(bundle, precision, threads, isa)
        alone = rows(engine, views)
        assert alone.shape == (6, 2) and len(np.unique(alone)) == 12
        found.add(alone.tobytes())
        for order in ([0, 1, 2, 3, 4, 5], [5, 1, 4, 0, 2, 3]):
            many = dict(engine.predict((i, views[[i]]) for i in order))
            found.add(np.concatenate([many[i] for i in range(6)]).tobytes())
        engine.close()
    assert len(found) == 1


def test_images_of_any_number_of_views(engine: NativeEngine) -> None:
    alone = rows(engine, VIEWS)
    parts = [range(0), range(1), range(1, 5), range(0), range(0), range(5, 6), range(0)]
    found = list(engine.predict((f"image {i}", VIEWS[part]) for i, part in enumerate(parts)))
    assert [tag for tag, _ in found] == [f"image {i}" for i in range(7)]
    for part, (_, predictions) in zip(parts, found, strict=True):
        assert predictions.dtype == np.float32 and predictions.tobytes() == alone[part].tobytes()
        assert predictions.shape == (len(part), 2)
    assert list(engine.predict([])) == []


def test_views_lie_in_memory_as_they_like(engine: NativeEngine) -> None:
    turned = np.ascontiguousarray(VIEWS[0].transpose(1, 0, 2)).transpose(1, 0, 2)
    assert rows(engine, turned[None]).tobytes() == rows(engine, VIEWS[:1]).tobytes()


def test_it_takes_few_images_ahead(engine: NativeEngine) -> None:
    taken: list[int] = []

    def images() -> Iterator[tuple[int, NDArray[np.uint8]]]:
        for i in range(40):
            taken.append(i)
            yield i, VIEWS[:1]

    for i, _ in engine.predict(images()):
        assert len(taken) <= i + 18  # eight for each thread, this one and the next


def test_an_exception_of_the_source_arrives_and_the_engine_goes_on(engine: NativeEngine) -> None:
    def images() -> Iterator[tuple[int, NDArray[np.uint8]]]:
        yield 0, VIEWS[:3]
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(engine.predict(images()))
    stream = engine.predict((i, VIEWS[[i % 6]]) for i in range(20))
    assert next(stream)[0] == 0
    stream.close()  # type: ignore[attr-defined]
    assert np.isfinite(rows(engine, VIEWS)).all()


@pytest.mark.parametrize("more", [0, 1])
def test_closing_while_images_are_in_flight(small: Bundle, more: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the views that are computed, and gives up those that are not begun."""
    need(Isa.AVX2, "fp32")
    engine = NativeEngine(small, threads=2)
    go_on, real, ran = threading.Event(), Kernel.run, []

    def run(*arguments: Any) -> Any:
        assert go_on.wait(10)
        ran.append(real(*arguments))
        return ran[-1]

    def images() -> Iterator[tuple[int, NDArray[np.uint8]]]:
        yield 0, VIEWS[:4]
        threading.Timer(0.2, go_on.set).start()
        engine.close()
        assert len(ran) == 2 * 2  # of as many views as there are threads, both members
        yield from [(1, VIEWS[:1])] * more

    monkeypatch.setattr(Kernel, "run", run)
    with pytest.raises(RuntimeError if more else CancelledError):
        list(engine.predict(images()))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("native")]
    engine.close()


# --- which engine runs, and what is said of it ------------------------------------------------------------------------


@pytest.fixture
def on_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU with bf16, as far as the choice goes."""
    monkeypatch.setattr("metaqap_fast.engine.cpu.default_precision", lambda: "bf16")


def made(bundle: Bundle, *arguments: str) -> tuple[str, str, str]:
    engine = engines.create(bundle, *arguments)
    engine.close()
    assert engine.device_id is None and engine.device.startswith("cpu: ")
    return engine.name, engine.precision, engine.reason


@pytest.mark.usefixtures("on_bf16")
def test_the_shipped_model_runs_natively() -> None:
    need(Isa.AVX512_BF16, "bf16")
    assert made(bundles.load(), "auto", "cpu") == ("native", "bf16", "the cpu was asked for")


@pytest.mark.usefixtures("on_bf16")
@pytest.mark.parametrize("precision", native.PRECISIONS)
def test_native_if_asked_for(small: Bundle, precision: str) -> None:
    if not paths(precision):
        pytest.skip(f"no path for {precision} runs here")
    assert made(small, "native", "auto", precision) == ("native", precision, "asked for")
    assert made(small, "native")[:2] == ("native", "bf16" if paths("bf16") else "fp32")


def test_fp32_and_openvino(small: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    need(Isa.AVX2, "fp32")
    assert made(small, "auto", "cpu", "fp32") == ("native", "fp32", "the cpu was asked for")
    assert made(small, "openvino", "auto", "fp32") == ("openvino", "fp32", "asked for")
    with pytest.raises(UsageError, match="the native engine has no fp16"):
        engines.create(small, "native", "cpu", "fp16")
    with pytest.raises(UsageError, match="the native engine has no fp16"):
        NativeEngine(small, "fp16")


def test_the_device_names_the_path(small: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    need(Isa.AVX2, "fp32")
    monkeypatch.setenv(cpu.ONEDNN, "")  # set along with the next, and to be as it was after the test
    monkeypatch.setenv(cpu.VARIABLE, "avx2")
    for precision in ("auto", "int8"):
        engine = engines.create(small, "auto", "cpu", precision)
        assert engine.name == "native" and ", AVX2, " in engine.device
        engine.close()
    monkeypatch.setenv(cpu.VARIABLE, "portable")
    engine = engines.create(small, "native")
    assert ", PORTABLE, " in engine.device and engine.precision == "fp32"
    engine.close()


def test_a_cpu_without_avx2_has_openvino(small: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "paths", lambda precision: [Isa.PORTABLE] if precision != "bf16" else [])
    monkeypatch.setattr(cpu, "played", lambda: None)  # to play one would be to ask for the path
    name, _, said = made(small, "auto", "cpu", "fp32")
    assert name == "openvino" and "without AVX2 it would be slower than OpenVINO" in said


def refused(bundle: Bundle, reason: str, precision: str = "auto") -> None:
    """`auto` says why it is OpenVINO, and the native engine why it does not run."""
    name, _, said = made(bundle, "auto", "cpu", precision)
    assert (name, said) == ("openvino", f"the cpu was asked for; the native engine does not run: {reason}")
    with pytest.raises(MetaqapError) as caught:
        engines.create(bundle, "native", "cpu", precision)
    assert str(caught.value) == f"the native engine does not run: {reason}" and type(caught.value) is MetaqapError


def test_a_cpu_without_the_instructions(small: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    need(Isa.AVX2, "fp32")
    monkeypatch.setenv(cpu.ONEDNN, "")  # set along with the next, and to be as it was after the test
    monkeypatch.setenv(cpu.VARIABLE, "avx2")
    assert made(small, "native")[:2] == ("native", "fp32")
    with pytest.raises(MetaqapError, match="this CPU has no AVX512_BF16; this CPU has no AMX"):
        engines.create(small, "native", "cpu", "bf16")


@pytest.mark.usefixtures("on_bf16")
def test_an_installation_without_the_kernel(small: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "__file__", str(tmp_path / "library.py"))
    kernel.library.cache_clear()
    refused(small, "the package was installed without a C compiler", "int8")
    path = tmp_path / "_mobilenet.so"
    path.write_bytes(b"not a library")
    refused(small, f"{path.name} cannot be loaded: {path}: file too short", "int8")


def a_relu(folder: Path, tiny: Path) -> Bundle:
    return bundle_of(folder, nn.ReLU6, nn.ReLU)


def a_small_view(folder: Path, tiny: Path) -> Bundle:
    return bundles.load(str(tiny))


class Means(nn.Module):
    """The means of taps, without the rest."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.all = features

    def forward(self, image: Tensor) -> Tensor:
        taps: Any = self.all.network.taps(self.all.preprocess(image))  # type: ignore[union-attr,operator]
        return torch.cat([tap.mean((2, 3)) for tap in taps], 1)


def other_taps(folder: Path, tiny: Path) -> Bundle:
    made: Any = member(["ds_r1_k3_s2_e1_c16", "ir_r1_k5_s2_e6_c24"], 96)
    made.features, made.weights = Means(made.features), made.weights[::3]
    exported(made, folder / "means.onnx")
    return Bundle("means", folder, (Member("means", folder / "means.onnx", {}),), META, 512, "", {})


@pytest.mark.usefixtures("on_bf16")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (a_relu, "it does not support member1 (expected one Maximum, found 0)"),
        (a_small_view, "it does not support mean (expected one Transpose, found 0)"),
        (other_taps, "it does not support means (a head on 4 pooled values of 4 activations)"),
    ],
)
def test_a_model_that_the_kernel_does_not_run(make: Any, reason: str, tmp_path: Path, bundle: Path) -> None:
    need(Isa.AVX512_BF16, "bf16")
    refused(make(tmp_path, bundle), reason)
    with pytest.raises(Unsuited):
        NativeEngine(make(tmp_path, bundle))


def test_another_path_runs_what_the_fastest_does_not_take(small: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    need(Isa.AVX2, "int8")
    first, second, *_ = paths("int8")
    real = native.kernels

    def kernels(bundle: Bundle, isa: Isa, precision: str) -> list[Kernel]:
        if isa == first:
            raise Unsuited("views of 384 pixels")
        return real(bundle, isa, precision)

    monkeypatch.setattr(native, "kernels", kernels)
    engine = NativeEngine(small, "int8")
    assert f", {second.name}, " in engine.device
    engine.close()
    monkeypatch.setattr(native, "kernels", Mock(side_effect=Unsuited("none takes it")))
    with pytest.raises(Unsuited, match="none takes it"):
        NativeEngine(small, "int8")


def test_a_model_without_ranges_has_no_int8(small: Bundle) -> None:
    need(Isa.AVX2, "int8")
    bare = Bundle("bare", small.path, tuple(Member(m.name, m.file, {}) for m in small.members), META, 512, "", {})
    for engine in ("auto", "native"):
        with pytest.raises(UsageError, match="the model bare has no int8 ranges: use --precision"):
            engines.create(bare, engine, "cpu", "int8")
