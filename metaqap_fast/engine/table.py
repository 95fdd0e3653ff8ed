"""The engines, in the order in which `auto` tries them. To add one: a file with the engine, and an entry here."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaqap_fast.engine.cuda import Gpu
    from metaqap_fast.engine.protocol import Engine
    from metaqap_fast.model.bundle import Bundle


@dataclass(frozen=True, slots=True)
class Spec:
    """One engine.

    Attributes:
        factory: "module:function"; the function takes a bundle, a precision (or `auto`) and a `cuda.Gpu` (None for
            the CPU). It raises `Unsuited` if the engine cannot run that bundle here, `UsageError` if the precision is
            not to be had here.
        devices: "cpu", "cuda" or both.
        precisions: all that it has on some machine.
        automatic: the devices on which `auto` considers it.
        modules: what has to be installed.
        library: "module:function" that tells whether a library which is more than a module is installed.
        hint: what to do where something is missing.
        packages: distributions whose version decides the predictions.
    """

    factory: str
    devices: tuple[str, ...]
    precisions: tuple[str, ...]
    automatic: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    library: str = ""
    hint: str = "pip install 'metaqap-fast[gpu]'"
    packages: tuple[str, ...] = ()

    def make(self, bundle: Bundle, precision: str, gpu: Gpu | None) -> Engine:
        """The engine; see `factory`."""
        made: Engine = _function(self.factory)(bundle, precision, gpu)
        return made

    def installed(self) -> bool:
        """Whether all that it needs is there."""
        return all(find_spec(module) for module in self.modules) and (
            not self.library or bool(_function(self.library)())
        )


ENGINES: dict[str, Spec] = {
    "tensorrt": Spec(
        "metaqap_fast.engine.gpu.tensorrt_engine:create",
        devices=("cuda",),
        precisions=("fp32", "bf16", "fp16", "int8", "fp8"),
        automatic=("cuda",),
        modules=("torch", "onnx"),
        library="metaqap_fast.engine.gpu.tensorrt_build:installed",
        hint="pip install 'metaqap-fast[tensorrt]' (or [rtx], for GeForce and RTX cards; see docs/gpu.md)",
    ),
    "native": Spec(
        "metaqap_fast.engine.native.engine:create",
        devices=("cpu",),
        precisions=("fp32", "bf16", "int8"),
        automatic=("cpu",),
    ),
    "openvino": Spec(
        "metaqap_fast.engine.openvino_engine:create",
        devices=("cpu",),
        precisions=("fp32", "bf16", "int8"),
        automatic=("cpu",),
        packages=("openvino",),
    ),
    "torch": Spec(
        "metaqap_fast.engine.gpu.torch_engine:create",
        devices=("cuda", "cpu"),
        precisions=("fp32", "bf16", "fp16"),
        automatic=("cuda",),
        modules=("torch", "triton", "onnx"),
        packages=("torch",),
    ),
}


def versions(packages: Iterable[str]) -> str:
    """Names and versions of those distributions that are installed."""
    found = []
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            found.append(f"{package} {metadata.version(package)}")
    return ", ".join(found)


def _function(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def automatic(device: str) -> tuple[str, ...]:
    """The engines that `auto` considers on a "cpu" or on "cuda", in its order."""
    return tuple(name for name, spec in ENGINES.items() if device in spec.automatic)


def either(names: Iterable[str]) -> str:
    """Names in words: "fp32, bf16 or int8"."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last
