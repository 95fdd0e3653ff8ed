"""Which engine runs, and why: what was asked for, what the machine has, what is installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from metaqap_fast.engine import cuda
from metaqap_fast.engine.table import ENGINES, automatic
from metaqap_fast.errors import MetaqapError, UsageError


@dataclass(frozen=True, slots=True)
class Choice:
    """Engines to try in this order, their GPU (None: the CPU), why, and a `warning` where users should hear of it."""

    engines: tuple[str, ...]
    gpu: cuda.Gpu | None
    reason: str
    warning: str = ""


def _installed(name: str) -> bool:
    return ENGINES[name].installed()


def choose(
    engine: str,
    device: str,
    gpus: Callable[[], list[cuda.Gpu]] = cuda.gpus,
    installed: Callable[[str], bool] = _installed,
) -> Choice:
    """What `--engine` and `--device` mean on this machine.

    `auto` is the first engine of the table that is made for the device and installed. A GPU that stays unused because
    packages are missing is never passed over in silence.

    Raises:
        UsageError: a name that does not exist, a combination that cannot be, or a device that does not exist.
        MetaqapError: the packages for it are missing; no GPU where one was asked for.
    """
    if engine != "auto" and engine not in ENGINES:
        raise UsageError(f"unknown engine {engine!r}: one of {', '.join(('auto', *ENGINES))}")
    wanted = cuda.parse_device(device)
    if engine == "auto":
        return _automatic(wanted, device, gpus, installed)
    devices = ENGINES[engine].devices
    if isinstance(wanted, int) and "cuda" not in devices:
        raise UsageError(f"the {engine} engine runs on the cpu, not on {device!r}")
    if wanted == "cpu" and "cpu" not in devices:
        others = " or ".join(automatic("cpu"))
        raise UsageError(f"the {engine} engine runs on a GPU: leave out --device cpu, or use --engine {others}")
    gpu, reason = None, "asked for"
    if "cuda" in devices and wanted != "cpu":
        try:
            gpu = cuda.pick(wanted, gpus())
        except cuda.NoGpu as error:
            if wanted != "auto" or "cpu" not in devices:
                what = f"--device {device}" if wanted != "auto" else f"--engine {engine}"
                raise MetaqapError(f"{what} needs a GPU: {error}") from None
            reason = f"asked for; {error}"
    if not installed(engine):
        raise MetaqapError(f"the {engine} engine needs more packages: {ENGINES[engine].hint}")
    return Choice((engine,), gpu, reason)


def _automatic(
    wanted: int | str, device: str, gpus: Callable[[], list[cuda.Gpu]], installed: Callable[[str], bool]
) -> Choice:
    on_cpu = automatic("cpu")
    if wanted == "cpu":
        return Choice(on_cpu, None, "the cpu was asked for")
    try:
        gpu = cuda.pick(wanted, gpus())
    except cuda.NoGpu as error:
        if wanted != "auto":
            raise MetaqapError(f"--device {device} needs a GPU: {error}") from None
        return Choice(on_cpu, None, str(error), "" if error.plain else f"no GPU is used: {error}")
    first, *_ = candidates = automatic("cuda")
    there = tuple(name for name in candidates if installed(name))
    if first in there:
        return Choice(there, gpu, f"{gpu.name} and {first} are available")
    if there:
        return Choice(there, gpu, f"{first} is not installed", f"the {first} engine is faster: {ENGINES[first].hint}")
    missing = ENGINES[candidates[-1]].hint
    if wanted != "auto":
        raise MetaqapError(f"{gpu.device} ({gpu.name}) cannot be used without more packages: {missing}")
    return Choice(
        on_cpu, None, f"the packages for {gpu.name} are missing", f"{gpu.name} stays unused: {missing} to use it"
    )
