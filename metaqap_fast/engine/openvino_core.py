"""OpenVINO itself: imported here and nowhere else in the package, quietly and for the CPU that is played."""

from __future__ import annotations

import functools
import sys
import threading
from typing import Any

from metaqap_fast import forked
from metaqap_fast.engine import cpu
from metaqap_fast.errors import MetaqapError

_lock = threading.RLock()


def library() -> Any:
    """The module `openvino`, without its telemetry.

    `import openvino` imports its converter, `openvino.tools.ovc`, which reports that to Google Analytics: it writes an
    id into ~/intel, forks the process while other threads run, and looks up a host in the child. Only CI=true or a file
    in HOME turn that off. Where the package openvino-telemetry, which pip installs with OpenVINO, is not to be found,
    the converter takes a stub for it; so for the time of the import it is not to be found.

    Raises:
        MetaqapError: OpenVINO is not installed.
        UsageError: METAQAP_FAST_ISA cannot be.
    """
    with _lock:
        return _library()


def shared_core() -> Any:
    """OpenVINO's `Core`, one for the whole process and kept until it ends.

    Its CPU plugin gives the thread that loads it a signal stack, and frees that stack with the last core and compiled
    model, on whichever thread that happens. The first thread would be left with a signal stack that is gone, and the
    next signal it handles (Ctrl-C, the end of a child) would kill the process.

    Raises:
        MetaqapError, UsageError: as `library`.
    """
    with _lock:
        return _core()


@functools.cache
def _library() -> Any:
    cpu.limit_onednn()  # which OpenVINO asks when it is first used
    found = sys.modules.get("openvino_telemetry")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError as error:
        raise MetaqapError(f"OpenVINO is not installed: pip install openvino ({error})") from None
    finally:
        del sys.modules["openvino_telemetry"]
        if found is not None:
            sys.modules["openvino_telemetry"] = found
    return openvino


@functools.cache
def _core() -> Any:
    core = library().Core()
    forked.keep(core)
    return core
