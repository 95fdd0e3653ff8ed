"""Running engines, and what happens to foreign ones: with a fake library, on the CPU."""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fake_tensorrt
from metaqap_fast.engine import cuda
from metaqap_fast.engine.cuda import Gpu
from metaqap_fast.engine.gpu import plan_cache as cache
from metaqap_fast.engine.gpu import tensorrt_engine as tensorrt
from metaqap_fast.engine.gpu.engine import DeviceEngine
from metaqap_fast.engine.gpu.tensorrt_build import MODULES, Library, Options, find
from metaqap_fast.engine.gpu.tensorrt_runner import EngineRefused, TensorRTRunner
from metaqap_fast.engine.protocol import Unsuited
from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.model import bundle as bundles
from metaqap_fast.model.bundle import Bundle

pytestmark = pytest.mark.usefixtures("own_cache")

LIBRARY = Library(fake_tensorrt, "tensorrt")
GPU = Gpu(0, "NVIDIA Test 9000", 89, 1 << 30)


def runner(*plans: bytes, batch: int = 8) -> TensorRTRunner:
    return TensorRTRunner(LIBRARY, plans, 4, [2 // len(plans)] * len(plans), batch, "cpu")


def views(count: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, 4, 4, 3), np.uint8)


@pytest.mark.parametrize("plans", [[[0, 1]], [[0], [1]]])
def test_merged_and_separate_engines_fill_the_members_in_order(plans: list[list[int]]) -> None:
    engine = DeviceEngine(runner(*map(fake_tensorrt.plan, plans)), "tensorrt", "fp16", "cuda:0", None)
    pixels = views(21)
    rows = np.concatenate([out for _, out in engine.predict((i, view[None]) for i, view in enumerate(pixels))])
    flat = pixels.reshape(21, -1) / 255
    assert rows == pytest.approx(np.stack([flat.mean(1), flat.max(1)], 1), abs=1e-6)
    engine.close()


def test_there_is_one_shape_and_it_is_set_once() -> None:
    engine = DeviceEngine(runner(fake_tensorrt.plan([0, 1])), "tensorrt", "fp16", "cuda:0", None)
    for count in (19, 1, 8):
        list(engine.predict((i, view[None]) for i, view in enumerate(views(count))))
    assert fake_tensorrt.calls == ["shape 8", *["run [0, 1] 8"] * 5]


def test_a_version_compatible_engine_of_our_own_is_loaded() -> None:
    run = runner(fake_tensorrt.plan([0, 1], compatible=True))
    run.image[:] = 255
    assert run.run().tolist() == [[1, 1]] * 8


def test_what_rtx_compiles_is_kept_for_the_next_start() -> None:
    rtx = Library(fake_tensorrt, "tensorrt_rtx")
    plans = [fake_tensorrt.plan([0]), fake_tensorrt.plan([1])]
    first = TensorRTRunner(rtx, plans, 4, [1, 1], 8, "cpu")
    assert first.compiled() == [b"kernels of [0]", b"kernels of [1]"] and fake_tensorrt.calls == ["shape 8"] * 2
    TensorRTRunner(rtx, plans, 4, [1, 1], 8, "cpu", first.compiled())
    assert fake_tensorrt.calls[2::2] == ["known kernels of [0]", "known kernels of [1]"]
    assert runner(fake_tensorrt.plan([0, 1])).compiled() == []


def test_refused_and_failing_engines() -> None:
    with pytest.raises(EngineRefused, match="does not load the engine: The engine plan file is not compatible with"):
        runner(fake_tensorrt.plan([0, 1], version=2))
    with pytest.raises(RuntimeError, match="did not run"):
        runner(fake_tensorrt.plan([0, 1], broken=1)).run()
    with pytest.raises(EngineRefused, match="does not take a batch of 8"):
        runner(fake_tensorrt.plan([0, 1], batch=4))


class NullRuntime(fake_tensorrt.Runtime):
    """As TensorRT 11 gives it where CUDA does not start: an object, but the next call is a crash."""

    def __init__(self, logger: fake_tensorrt.ILogger) -> None:
        super().__init__(logger)
        logger.log(1, "CUDA initialization failure with error: 35")

    def __setattr__(self, name: str, value: Any) -> None:
        assert name == "logger", "a segmentation fault"
        super().__setattr__(name, value)


def test_a_library_that_does_not_start_is_not_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_tensorrt, "Runtime", NullRuntime)
    ended: list[bool] = []
    monkeypatch.setattr(NullRuntime, "__del__", lambda self: ended.append(True), raising=False)
    with pytest.raises(Unsuited, match=r"^tensorrt 11\.4\.0 does not start: CUDA initialization failure with"):
        runner(fake_tensorrt.plan([0, 1]))
    gc.collect()
    assert not ended


STARTS = """
from metaqap_fast.engine.gpu.tensorrt_build import find
from metaqap_fast.engine.gpu.tensorrt_runner import TensorRTRunner
from metaqap_fast.engine.protocol import Unsuited
try:
    TensorRTRunner(find("tensorrt_lean"), [b"plan"], 64, [1], 2, "cpu")
except Unsuited as error:
    print(error)
"""


@pytest.mark.nightly
def test_the_real_lean_runtime_does_not_start_without_a_driver(tmp_path: Path) -> None:
    """It needs no index but the usual one; the process lives on, to its end."""
    packages = [f"tensorrt-lean-cu13-{part}==11.4.0.106" for part in ("libs", "bindings")]
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path), *packages]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("the lean runtime cannot be had: nothing is tested")
    try:
        cuda.gpus()
        pytest.skip("this machine has a GPU")
    except cuda.NoGpu:
        pass
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-c", STARTS], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tensorrt_lean 11.4.0.106 does not start: ") and "driver" in done.stdout


# --- create: cache, build, refusal ------------------------------------------------------------------------


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The fake's builder; says what was built."""
    built: list[str] = []

    def build(library: Library, graph: bytes, size: int, batch: int, options: Options, timing: str) -> bytes:
        import onnx

        names = [output.type.tensor_type.shape.dim[1].dim_value for output in onnx.load_from_string(graph).graph.output]
        built.append(f"{names[0]} members for {timing}")
        return fake_tensorrt.plan([0, 1] if names[0] == 2 else [len(built) - 1], batch=batch)

    monkeypatch.setattr(tensorrt, "build", build)
    monkeypatch.setattr(tensorrt.torch.cuda, "device", lambda index: tensorrt.torch.inference_mode())
    monkeypatch.setattr(tensorrt, "DeviceEngine", lambda *a: DeviceEngine(*a[:4], None))
    real = TensorRTRunner.__init__
    monkeypatch.setattr(TensorRTRunner, "__init__", lambda self, *a: real(self, *a[:5], "cpu", *a[6:]))
    return built


@pytest.fixture
def tiny(bundle: Path) -> Bundle:
    return bundles.load(str(bundle))


@pytest.mark.parametrize(("layout", "count"), [("merged", 1), ("members", 2)])
def test_engines_are_built_once(tiny: Bundle, builds: list[str], layout: str, count: int) -> None:
    for _ in range(2):
        engine = tensorrt.create(tiny, "fp16", GPU, 8, layout, LIBRARY)
        assert (engine.name, engine.precision, engine.device) == ("tensorrt", "fp16", "cuda:0: NVIDIA Test 9000")
    assert len(builds) == count and "tensorrt 11.4.0-NVIDIA Test 9000 sm89" in builds[0]
    documents = [json.loads(path.read_text()) for path in cache.root().glob("*/*/engine.json")]
    assert len(documents) == count
    for document in documents:
        assert document["deviation"]["count"] == 8 and document["deviation"]["images"] == "generated"
        assert document["deviation"]["measured_with"] == "tensorrt 11.4.0 on NVIDIA Test 9000"


def test_an_engine_that_the_library_refuses_is_built_again(
    tiny: Bundle, builds: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    tensorrt.create(tiny, "fp16", GPU, 8, "merged", LIBRARY)
    (folder,) = (path.parent for path in cache.root().glob("*/*/engine.json"))
    document = json.loads((folder / "engine.json").read_text())
    foreign = fake_tensorrt.plan([0, 1], version=2)
    (folder / "engine.plan").write_bytes(foreign)
    (folder / "engine.json").write_text(json.dumps({**document, "sha256": hashlib.sha256(foreign).hexdigest()}))
    with caplog.at_level(logging.WARNING):
        tensorrt.create(tiny, "fp16", GPU, 8, "merged", LIBRARY)
    assert len(builds) == 2 and "does not load the engine" in caplog.text and "Building it again" in caplog.text
    tensorrt.create(tiny, "fp16", GPU, 8, "merged", LIBRARY)
    assert len(builds) == 2


def test_a_batch_that_does_not_fit_is_built_again_smaller(
    tiny: Bundle, builds: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = TensorRTRunner.__init__

    def full(self: TensorRTRunner, *arguments: Any) -> None:
        if arguments[4] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")
        real(self, *arguments)

    monkeypatch.setattr(TensorRTRunner, "__init__", full)
    with caplog.at_level(logging.WARNING):
        engine = tensorrt.create(tiny, "fp16", GPU, 8, "merged", LIBRARY)
    assert engine.batch == 2 and len(builds) == 3
    assert "too little memory for 8 views at once: going on with 4" in caplog.text


def modules(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """These libraries are installed, and no others."""
    for name in (name for names in MODULES.values() for name in names):
        monkeypatch.setitem(sys.modules, name, None)
    for name, version in versions.items():
        module = types.ModuleType(name)
        module.__dict__.update({**vars(fake_tensorrt), "__version__": version})
        monkeypatch.setitem(sys.modules, name, module)


def test_rtx_is_not_taken_for_a_gpu_that_it_does_not_build_for(monkeypatch: pytest.MonkeyPatch) -> None:
    modules(monkeypatch, tensorrt_rtx="1.7.1")
    assert find(target="sm89").is_rtx
    with pytest.raises(Unsuited, match=r"^tensorrt_rtx 1\.7\.1 does not build for sm90, only for sm75, .*sm121$"):
        find(target="sm90")
    modules(monkeypatch, tensorrt_rtx="1.7.1", tensorrt_lean="11.4.0")
    assert find(target="sm90").kind == "tensorrt_lean" and find(target="sm89").is_rtx
    modules(monkeypatch, tensorrt_rtx="1.7.1", tensorrt_bindings="11.4.0")
    assert find(target="sm89").kind == "tensorrt"


def test_the_lean_runtime_runs_what_was_built_elsewhere(
    tiny: Bundle, builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lean, hopper = Library(fake_tensorrt, "tensorrt_lean"), Gpu(0, "NVIDIA H100", 90, 80 << 30)
    with pytest.raises(Unsuited, match=r"builds none, .*`metaqap-fast compile --portable -o FOLDER` where TensorRT is"):
        tensorrt.create(tiny, "fp16", hopper, 8, "merged", lean)
    pixels = np.zeros((1, 64, 64, 3), np.uint8)
    arguments = (tiny, "fp16", "merged", LIBRARY, GPU, [], 8, pixels, "none", lambda text: None)
    tensorrt.compile_bundle(*arguments, portable=True)
    engine = tensorrt.create(tiny, "fp16", hopper, 8, "merged", lean)
    assert engine.reason == "tensorrt_lean 11.4.0" and len(builds) == 1
    with pytest.raises(UsageError, match="makes no portable engines"):
        rtx = Library(fake_tensorrt, "tensorrt_rtx")
        tensorrt.compile_bundle(tiny, "fp16", "merged", rtx, GPU, [], 8, pixels, "none", lambda _: None, portable=True)


def test_the_lean_runtime_says_that_an_engine_is_of_a_newer_library(
    tiny: Bundle, builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot build it again."""
    monkeypatch.setattr(tensorrt, "build", lambda *a: fake_tensorrt.plan([0, 1], batch=8, version=2))
    pixels = np.zeros((1, 64, 64, 3), np.uint8)
    arguments = (tiny, "fp16", "merged", LIBRARY, GPU, [], 8, pixels, "none", lambda text: None)
    tensorrt.compile_bundle(*arguments, portable=True)
    with pytest.raises(
        Unsuited, match=r"11\.4\.0 does not load the engine: .*, or a newer one\. Make it again"
    ) as caught:
        tensorrt.create(tiny, "fp16", GPU, 8, "merged", Library(fake_tensorrt, "tensorrt_lean"))
    assert "\n" not in str(caught.value)


def test_a_slice_of_a_gpu_has_an_engine_of_its_own(tiny: Bundle, builds: list[str]) -> None:
    """Tactics are timed on it, and it has a part of the multiprocessors."""
    for gpu in (GPU, Gpu(0, f"{GPU.name} MIG 1g.10gb", GPU.capability, GPU.memory), GPU):
        tensorrt.create(tiny, "fp16", gpu, 8, "merged", LIBRARY)
    assert [text.partition("9000 ")[2] for text in builds] == ["sm89", "MIG 1g.10gb sm89"]


def test_the_score_file_says_which_engine_it_was(tiny: Bundle, builds: list[str]) -> None:
    """Builds are timed, and differ: a run must not go on with another build than it began with."""
    first = tensorrt.create(tiny, "fp16", GPU, 8, "merged", LIBRARY).version
    assert first.startswith("tensorrt 11.4.0, engine ") and len(first) == len("tensorrt 11.4.0, engine ") + 16
    assert tensorrt.create(tiny, "fp16", GPU, 8, "merged", LIBRARY).version == first
    assert tensorrt.create(tiny, "fp16", GPU, 16, "merged", LIBRARY).version != first


def test_engines_are_built_on_the_gpu_that_they_are_for(
    tiny: Bundle, builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`compile --device cuda:1` built and timed on GPU 0 what it stored for GPU 1."""
    current: list[int] = []

    @contextmanager
    def device(index: int) -> Iterator[None]:
        current.append(index)
        yield
        current.pop()

    monkeypatch.setattr(tensorrt.torch.cuda, "device", device)
    built = tensorrt.build
    monkeypatch.setattr(tensorrt, "build", lambda *a: current[-1] == 1 and built(*a))
    second = Gpu(1, "NVIDIA Test 9000", 89, 1 << 30)
    pixels = np.zeros((1, 64, 64, 3), np.uint8)
    made = tensorrt.compile_bundle(tiny, "fp16", "merged", LIBRARY, second, [], 8, pixels, "none", lambda text: None)
    assert len(made) == 1 and not current


def test_a_wrong_network_is_seen_in_the_metadata(tiny: Bundle, builds: list[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(
        tensorrt, "build", lambda *a, **k: fake_tensorrt.plan([1, 0], batch=8)
    )  # columns the wrong way round
    tensorrt.create(tiny, "fp16", GPU, 8, "merged", LIBRARY)
    (path,) = cache.root().glob("*/*/engine.json")
    assert json.loads(path.read_text())["deviation"]["score_max"] > 0.01


# --- finding the library -----------------------------------------------------------------------------------


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (name for names in MODULES.values() for name in names):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MetaqapError, match=r"pip install 'metaqap-fast\[tensorrt\]'"):
        find()
    with pytest.raises(MetaqapError, match=r"pip install 'metaqap-fast\[rtx\]'"):
        find("tensorrt_rtx")


def test_an_old_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (name for names in MODULES.values() for name in names):
        monkeypatch.setitem(sys.modules, name, None)
    old = types.ModuleType("tensorrt")
    old.Runtime, old.__version__ = object, "8.6.1"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    with pytest.raises(MetaqapError, match=r"TensorRT 8\.6\.1 is too old, 10\.8 is needed"):
        find()
