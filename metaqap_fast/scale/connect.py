"""The way to a Ray cluster, and what goes wrong there, in a line."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from metaqap_fast import signals
from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.gpu_errors import first_line

SECONDS_TO_ANSWER = 5.0


def imported() -> Any:
    """Ray.

    Raises:
        MetaqapError: it is missing.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # scoring contacts nobody
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MetaqapError(f"Ray is missing ({error}): pip install 'metaqap-fast[ray]'") from None
    return ray


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster; what was started for it is ended.

    Raises:
        MetaqapError: Ray is missing, nothing answers, or the cluster has another version of Ray or Python.
    """
    for name, level in (("RAY_DATA_LOG_LEVEL", "ERROR"), ("RAY_BACKEND_LOG_LEVEL", "fatal")):
        os.environ.setdefault(name, level)  # what has to be said, we say
    if address == "local" and "ray" not in sys.modules:  # which reads it once, as it is imported
        for name, value in (("RAY_AUTH_MODE", "token"), ("RAY_AUTH_TOKEN", secrets.token_hex(32))):
            os.environ.setdefault(name, value)  # or Ray writes one to HOME
    ray = imported()
    with ExitStack() as stack:
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address == "local":
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True))
            cpus = len(os.sched_getaffinity(0))
            settings |= {"num_cpus": cpus, "include_dashboard": False, "_temp_dir": folder}
        else:
            _answers(address)
        try:
            with _silent():
                ray.init(address, **settings)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            why = first_line(error)
            if any(type(each).__name__ == "AuthenticationError" for each in causes(error)):
                why = "it requires a token. Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file that holds it"
            raise MetaqapError(f"cannot use the Ray cluster {address}: {why}") from None
        stack.callback(ray.shutdown)
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield ray


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing is written to standard error, not by C++ code either: Ray says there at which level it says things."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def _answers(address: str) -> None:
    """Ray tries for minutes what is clear at once."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise UsageError(
            f"{address!r} is not the address of a Ray cluster: give host:port of its head node, or auto on a node"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS_TO_ANSWER).close()
    except OSError as error:
        raise MetaqapError(f"no Ray cluster answers at {address}: {error.strerror or error}") from None


@contextmanager
def translated() -> Iterator[None]:
    """An error of ours on a worker is ours here; one of Ray is one line."""
    try:
        yield
    except signals.INTERRUPTIONS:
        raise
    except Exception as error:
        # Ray wraps an error of ours in a class that is both its own and ours.
        ours = next((each for each in causes(error) if isinstance(each, MetaqapError) and not _is_ray_s(each)), None)
        if ours is error:
            raise
        if ours is not None:
            kind = UsageError if ours.exit_code == UsageError.exit_code else MetaqapError
            raise kind(f"a Ray worker: {ours}") from None
        raise MetaqapError(f"Ray: {first_line(error)}. Rows committed so far are safe; go on with --resume") from None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it, Ray's own way of saying so included."""
    found: set[int] = set()
    while error is not None and id(error) not in found:
        found.add(id(error))
        yield error
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__


def _is_ray_s(error: BaseException) -> bool:
    return hasattr(error, "cause")
