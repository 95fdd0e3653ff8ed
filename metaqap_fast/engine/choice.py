"""Which engine runs, and why: what was asked for, what the machine has, what is installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from metaqap_fast.engine import cuda
from metaqap_fast.errors import MetaqapError, UsageError


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine, its GPU (None: the CPU) and the reason; `warning` where the user should hear of it."""

    engine: str
    gpu: cuda.Gpu | None
    reason: str
    warning: str = ""


def _installed(name: str) -> bool:
    """`torch` (with triton, for the combining kernel), or `tensorrt`: either library, and what it needs here."""
    from metaqap_fast.engine.gpu.tensorrt_build import installed

    needed = {"torch": ("torch", "triton", "onnx"), "tensorrt": ("torch", "triton", "onnx")}[name]
    return all(find_spec(module) for module in needed) and (name == "torch" or installed() is not None)


def choose(
    engine: str,
    device: str,
    gpus: Callable[[], list[cuda.Gpu]] = cuda.gpus,
    installed: Callable[[str], bool] = _installed,
) -> Choice:
    """What `--engine` and `--device` mean on this machine.

    `auto` is TensorRT on a GPU, torch on a GPU without TensorRT, OpenVINO without a GPU: there `create` takes the
    native engine if it runs the bundle. A GPU that stays unused because packages are missing is never passed over in
    silence.

    Raises:
        UsageError: a combination that cannot be, or a device that does not exist.
        MetaqapError: the packages for it are missing; no GPU where one was asked for.
    """
    wanted = cuda.parse_device(device)
    if engine in ("native", "openvino"):
        if isinstance(wanted, int):
            raise UsageError(f"the {engine} engine runs on the cpu, not on {device!r}")
        return Choice(engine, None, "asked for")
    if engine == "torch" and wanted == "cpu":
        _require("torch", installed)
        return Choice("torch", None, "asked for")
    if engine == "tensorrt" and wanted == "cpu":
        raise UsageError("the tensorrt engine runs on a GPU: leave out --device cpu, or use --engine openvino")
    if wanted == "cpu":
        return Choice("openvino", None, "the cpu was asked for")
    try:
        gpu = cuda.pick(wanted, gpus())
    except cuda.NoGpu as error:
        if engine == "auto" and wanted == "auto":
            return Choice("openvino", None, str(error), "" if error.plain else f"no GPU is used: {error}")
        if engine == "torch" and wanted == "auto":
            _require("torch", installed)
            return Choice("torch", None, str(error))
        what = f"--device {device}" if wanted != "auto" else f"--engine {engine}"
        raise MetaqapError(f"{what} needs a GPU: {error}") from None
    if engine != "auto":
        _require(engine, installed)
        return Choice(engine, gpu, "asked for")
    for name, reason in (("tensorrt", "a GPU and TensorRT"), ("torch", "a GPU, and TensorRT is not installed")):
        if installed(name):
            hint = "" if name == "tensorrt" else "TensorRT is faster: pip install 'metaqap-fast[gpu]'"
            return Choice(name, gpu, reason, hint)
    missing = "pip install 'metaqap-fast[gpu]'"
    if wanted != "auto":
        raise MetaqapError(f"{gpu.device} ({gpu.name}) cannot be used without more packages: {missing}")
    return Choice(
        "openvino", None, f"the packages for {gpu.name} are missing", f"{gpu.name} stays unused: {missing} to use it"
    )


def _require(engine: str, installed: Callable[[str], bool]) -> None:
    if not installed(engine):
        more = " (or [rtx] for TensorRT-RTX)" if engine == "tensorrt" else ""
        raise MetaqapError(f"the {engine} engine needs more packages: pip install 'metaqap-fast[gpu]'{more}")
