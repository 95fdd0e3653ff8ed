"""Which engine `auto` takes, what it says, and every way in which a GPU can be missing; the driver is a fake."""

from __future__ import annotations

import ctypes
import json
import logging
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from fake_driver import fake_driver
from metaqap_fast import Scorer
from metaqap_fast.engine import cuda
from metaqap_fast.engine.choice import choose
from metaqap_fast.engine.cuda import Gpu, NoGpu
from metaqap_fast.errors import MetaqapError, UsageError

H100 = Gpu(0, "NVIDIA H100", 90, 80 << 30, "GPU-00000000-0000-0000-0000-000000000000", 3.352e12)
ADA = Gpu(1, "NVIDIA L4", 89, 24 << 30, "GPU-01010101-0101-0101-0101-010101010101")


class Driver:
    """libcuda as far as it is asked."""

    def __init__(self, gpus: list[Gpu], version: int = 13000, init: int = 0) -> None:
        self.gpus, self.version, self.init = gpus, version, init

    def __call__(self, name: str) -> Driver:
        assert name == "libcuda.so.1"
        return self

    def cuInit(self, flags: int) -> int:
        return self.init

    def cuDriverGetVersion(self, out: Any) -> int:
        out._obj.value = self.version
        return 0

    def cuDeviceGetCount(self, out: Any) -> int:
        out._obj.value = len(self.gpus)
        return 0

    def cuDeviceGet(self, out: Any, index: int) -> int:
        out._obj.value = 100 + index
        return 0

    def cuDeviceGetName(self, out: Any, size: int, device: ctypes.c_int) -> int:
        out.value = self.gpus[device.value - 100].name.encode()
        return 0

    def cuDeviceTotalMem_v2(self, out: Any, device: ctypes.c_int) -> int:
        out._obj.value = self.gpus[device.value - 100].memory
        return 0

    def cuDeviceGetUuid_v2(self, out: Any, device: ctypes.c_int) -> int:
        out._obj[:] = [device.value - 100] * 16
        return 0

    def cuDeviceGetAttribute(self, out: Any, what: int, device: ctypes.c_int) -> int:
        gpu = self.gpus[device.value - 100]
        if what in (36, 37):  # clock in kHz, width of the bus in bits
            out._obj.value = int(gpu.bandwidth / 2e6) if what == 36 else 8000
        else:
            out._obj.value = divmod(gpu.capability, 10)[what - 75]
        return 0


def absent(name: str) -> Any:
    raise OSError(f"{name}: cannot open shared object file")


def test_the_driver_is_read_right() -> None:
    assert cuda.gpus(Driver([H100, ADA])) == [H100, ADA]


@pytest.mark.parametrize(
    ("load", "words", "plain"),
    [
        (absent, "no NVIDIA driver on this machine", True),
        (Driver([H100], version=12040), "too old: it has CUDA 12.4, 13.0 is needed; install driver 580", False),
        (Driver([], init=100), "shows no GPU", True),
        (Driver([]), "shows no GPU", True),
        (Driver([H100], init=803), r"does not start \(CUDA error 803\)", False),
    ],
)
def test_why_there_is_no_gpu(load: Any, words: str, plain: bool) -> None:
    with pytest.raises(NoGpu, match=words) as caught:
        cuda.gpus(load)
    assert caught.value.plain == plain


@pytest.mark.parametrize(
    ("visible", "present", "words", "plain"),
    [
        (None, False, "the NVIDIA driver shows no GPU to this process", True),
        ("", True, "the NVIDIA driver shows no GPU to this process", True),
        ("-1", True, "the NVIDIA driver shows no GPU to this process", True),
        ("GPU-77", True, "the NVIDIA driver knows no GPU of CUDA_VISIBLE_DEVICES=GPU-77: `nvidia-smi -L` lists", False),
        ("5", True, "the NVIDIA driver knows no GPU of CUDA_VISIBLE_DEVICES=5: `nvidia-smi -L` lists", False),
        (None, True, "although there is one: if MIG is on, it needs a slice", False),
    ],
)
def test_only_who_wants_no_gpu_is_told_nothing(
    visible: str | None, present: bool, words: str, plain: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong name, or MIG without a slice, must not look like a machine without a GPU."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if present:
        (tmp_path / "0000:65:00.0").mkdir()
    monkeypatch.setattr(cuda, "_PRESENT", tmp_path)
    with pytest.raises(NoGpu) as caught:
        cuda.gpus(Driver([], init=100))
    assert words in str(caught.value) and caught.value.plain == plain


def test_a_device_beyond_those_that_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-0000")
    with pytest.raises(UsageError, match=r"cuda:1 does not exist: CUDA_VISIBLE_DEVICES shows cuda:0 \(NVIDIA H100\)"):
        cuda.pick(1, [H100])


def both() -> list[Gpu]:
    return [H100, ADA]


def none() -> list[Gpu]:
    raise NoGpu("no NVIDIA driver on this machine", plain=True)


def old() -> list[Gpu]:
    raise NoGpu("the NVIDIA driver is too old")


@pytest.mark.parametrize(
    ("engine", "device", "gpus", "packages", "expected", "gpu", "words"),
    [
        ("auto", "auto", both, {"torch", "tensorrt"}, "tensorrt torch", H100, ""),
        ("auto", "cuda:1", both, {"torch", "tensorrt"}, "tensorrt torch", ADA, ""),
        ("auto", "auto", both, {"torch"}, "torch", H100, "the tensorrt engine is faster: pip install 'metaqap"),
        (
            "auto",
            "auto",
            both,
            set(),
            "native openvino",
            None,
            "NVIDIA H100 stays unused: pip install",
        ),
        ("auto", "auto", none, {"torch", "tensorrt"}, "native openvino", None, ""),
        (
            "auto",
            "auto",
            old,
            {"torch", "tensorrt"},
            "native openvino",
            None,
            "no GPU is used: the NVIDIA driver is too old",
        ),
        ("auto", "cpu", both, {"torch", "tensorrt"}, "native openvino", None, ""),
        ("openvino", "auto", both, {"torch"}, "openvino", None, ""),
        ("native", "auto", both, {"torch"}, "native", None, ""),
        ("native", "cpu", none, set(), "native", None, ""),
        ("torch", "auto", both, {"torch"}, "torch", H100, ""),
        ("torch", "auto", none, {"torch"}, "torch", None, ""),
        ("torch", "cpu", both, {"torch"}, "torch", None, ""),
        ("tensorrt", "auto", both, {"torch", "tensorrt"}, "tensorrt", H100, ""),
    ],
)
def test_choice(
    engine: str, device: str, gpus: Any, packages: set[str], expected: str, gpu: Gpu | None, words: str
) -> None:
    choice = choose(engine, device, gpus, {*packages, "native", "openvino"}.__contains__)
    assert (choice.engines, choice.gpu) == (tuple(expected.split()), gpu) and choice.reason
    assert words in choice.warning and bool(words) == bool(choice.warning)


@pytest.mark.parametrize(
    ("engine", "device", "gpus", "packages", "kind", "words"),
    [
        ("auto", "cuda:2", both, {"torch"}, UsageError, "cuda:2 does not exist: this machine has cuda:0 (NVIDIA H100)"),
        ("auto", "gpu", both, {"torch"}, UsageError, "unknown device 'gpu': auto, cpu or cuda:N"),
        ("openvino", "cuda:0", both, set(), UsageError, "the openvino engine runs on the cpu, not on 'cuda:0'"),
        ("native", "cuda:0", both, set(), UsageError, "the native engine runs on the cpu, not on 'cuda:0'"),
        ("tensorrt", "cpu", both, set(), UsageError, "the tensorrt engine runs on a GPU"),
        ("tensorrt", "auto", none, {"torch"}, MetaqapError, "--engine tensorrt needs a GPU: no NVIDIA driver"),
        ("auto", "cuda:0", old, {"torch"}, MetaqapError, "--device cuda:0 needs a GPU: the NVIDIA driver is too old"),
        ("tensorrt", "auto", both, {"torch"}, MetaqapError, "pip install 'metaqap-fast[tensorrt]' (or [rtx]"),
        ("torch", "auto", both, set(), MetaqapError, "the torch engine needs more packages: pip install"),
        ("torch", "cpu", both, set(), MetaqapError, "the torch engine needs more packages: pip install"),
        ("auto", "cuda:0", both, set(), MetaqapError, "cuda:0 (NVIDIA H100) cannot be used without more packages"),
    ],
)
def test_what_cannot_be_is_one_clear_line(
    engine: str, device: str, gpus: Any, packages: set[str], kind: type[MetaqapError], words: str
) -> None:
    with pytest.raises(MetaqapError) as caught:
        choose(engine, device, gpus, {*packages, "native", "openvino"}.__contains__)
    assert type(caught.value) is kind and words in str(caught.value) and "\n" not in str(caught.value)


def test_a_gpu_that_tensorrt_is_not_made_for_is_torchs(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """TensorRT-RTX can be imported on an H100, but builds nothing for it."""
    from metaqap_fast import engine as engines
    from metaqap_fast.engine.gpu import tensorrt_build, torch_engine
    from metaqap_fast.engine.table import ENGINES
    from metaqap_fast.model import bundle as bundles

    rtx = types.ModuleType("tensorrt_rtx")
    rtx.__dict__.update(Runtime=object, __version__="1.7.1")
    for name in (name for names in tensorrt_build.MODULES.values() for name in names):
        monkeypatch.setitem(sys.modules, name, rtx if name == "tensorrt_rtx" else None)
    monkeypatch.setattr("metaqap_fast.engine.choice.choose.__defaults__", (both, lambda name: True))
    monkeypatch.setattr(torch_engine, "create", lambda bundle, precision, gpu: Made())
    assert ENGINES["tensorrt"].library and not caplog.text
    made = engines.create(bundles.load(str(bundle)), "auto", "auto", "fp16")
    assert made.name == "torch" and "tensorrt_rtx 1.7.1 does not build for sm90" in made.reason
    with pytest.raises(MetaqapError, match="does not build for sm90"):
        engines.create(bundles.load(str(bundle)), "tensorrt", "auto", "fp16")


def test_the_driver_is_asked_once(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that goes in between must not leave a GPU's decoder with a CPU's engine."""
    from metaqap_fast import decode
    from metaqap_fast.engine.gpu import torch_engine

    answers, used = [both()], list[Any]()
    monkeypatch.setattr(
        "metaqap_fast.engine.choice.choose.__defaults__", (lambda: answers.pop() if answers else none(), lambda _: True)
    )
    monkeypatch.setattr(decode, "create", lambda options, gpu, limits: used.append(gpu))
    monkeypatch.setattr(torch_engine, "create", lambda bundle, precision, gpu: used.append(gpu.index) or Made())
    Scorer(str(bundle), engine="torch", precision="fp16")
    assert used == [0, 0]


class Made:
    name, precision, device, device_id, reason = "torch", "fp16", "cuda:0", 0, ""


def test_an_unused_gpu_is_spoken_of(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("metaqap_fast.engine.choice.choose.__defaults__", (both, lambda name: False))
    with caplog.at_level(logging.WARNING):
        scorer = Scorer(str(bundle), precision="fp32")
    assert scorer.engine.name == "openvino" and "NVIDIA H100" in scorer.engine.reason
    assert "stays unused: pip install 'metaqap-fast[gpu]'" in caplog.text


def test_the_engine_and_its_reason_are_shown(cli: Any, bundle: Path, folder: Path, tmp_path: Path) -> None:
    arguments = ["score", folder, "--model", bundle, "-o", tmp_path / "s.h5", "--engine", "torch", "--device", "cpu"]
    shown = cli(*arguments)
    assert shown.exit_code == 0 and "engine torch (asked for), precision fp32, device cpu" in shown.stderr


ASKS = """
import json, os, sys
from metaqap_fast.engine import cuda
for settings in json.loads(sys.argv[1]):
    os.environ.update(settings)
    try:
        print(cuda.gpus()[0])
    except cuda.NoGpu as error:
        print(error)
    for name in settings:
        del os.environ[name]
"""


def test_the_driver_is_called_as_its_library_wants_it(tmp_path: Path) -> None:
    """Through a real shared library, whose arguments ctypes must get right; with UUIDs and a MIG slice."""
    gpu, mig = "GPU-00000000-0000-0000-0000-000000000001", "MIG-00000000-0000-0000-0000-000000000002"
    wanted = [
        ({"FAKE_CUDA_CAPABILITY": "89"}, Gpu(0, "NVIDIA H100 80GB HBM3", 89, 85_000_000_000, gpu)),
        ({"CUDA_VISIBLE_DEVICES": gpu}, Gpu(0, "NVIDIA H100 80GB HBM3", 90, 85_000_000_000, gpu)),
        ({"CUDA_VISIBLE_DEVICES": mig[:9]}, Gpu(0, "NVIDIA H100 80GB HBM3 MIG 1g.10gb", 90, 10_000_000_000, mig)),
        (
            {"CUDA_VISIBLE_DEVICES": "MIG-7"},
            "the NVIDIA driver knows no GPU of CUDA_VISIBLE_DEVICES=MIG-7: `nvidia-smi",
        ),
        ({"FAKE_CUDA_GONE": "1"}, "the NVIDIA driver does not start (CUDA error 999): restart the machine"),
    ]
    asked = json.dumps([settings for settings, _ in wanted])
    done = subprocess.run(
        [sys.executable, "-c", ASKS, asked], capture_output=True, text=True, env=fake_driver(tmp_path), check=False
    )
    assert done.returncode == 0, done.stderr
    for line, (_, words) in zip(done.stdout.splitlines(), wanted, strict=True):
        assert line.startswith(str(words))
