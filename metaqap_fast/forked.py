"""What a forked process inherits from its parent's scorers, and must neither use nor end.

The child has the objects of OpenVINO and DALI, but none of their threads. Their destructors wait for those threads for
ever, or abort the process: so in a child they are never run, and it can end as any process does.
"""

from __future__ import annotations

import ctypes
import os
import sys
import weakref
from typing import Any

from metaqap_fast.errors import UsageError

_kept: weakref.WeakSet[Any] = weakref.WeakSet()
_gone = False  # something that was kept has been destroyed
_refused = False


def keep(thing: Any) -> None:
    """In a child that is forked from now on, `thing` and what it refers to are never destroyed."""
    _kept.add(thing)
    weakref.finalize(thing, _note).atexit = False


def check() -> None:
    """Raise where a new Scorer would hang.

    OpenVINO hands the threads of a model that was destroyed to the next one, in a child too, where they do not exist.

    Raises:
        UsageError: this process was forked after a Scorer of its parent was destroyed.
    """
    if _refused:
        raise UsageError(
            "this process was forked from one in which a Scorer had come and gone, and OpenVINO would hang in it: "
            "start processes by multiprocessing's 'spawn', or make the parent's first Scorer after the fork"
        )


def _note() -> None:
    global _gone
    _gone = True


def _in_child() -> None:
    global _refused
    _refused = _gone
    for thing in list(_kept):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
    if dali := sys.modules.get("nvidia.dali.pipeline"):
        for pipe in [pipe for weak in dali.Pipeline._pipes if (pipe := weak()) is not None]:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(pipe))
        dali.Pipeline._pipes.clear()  # which DALI ends at exit


os.register_at_fork(after_in_child=_in_child)
