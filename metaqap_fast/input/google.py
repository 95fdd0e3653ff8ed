"""Buckets of Google Cloud Storage: gcsfs, without what keeps it silent for minutes where there is no network."""

from __future__ import annotations

import inspect
import os
import socket
from concurrent.futures import Future, TimeoutError
from functools import cache, partial
from threading import Thread
from types import MethodType
from typing import Any

from metaqap_fast.input import transfers

HERE = "metadata.google.internal"  # has credentials, on Google's machines only
SECONDS = 3.0  # to find out whether this is one of them
PROTOCOLS = ("gs", "gcs")


@cache
def prepare() -> None:
    """To be called before gcsfs is imported, which reads these settings then. What the user has set stays."""
    # It would ask by gRPC what kind of bucket each one is, and wait a minute for the answer.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    if not {"NO_GCE_CHECK", "GCE_METADATA_HOST", "GCE_METADATA_ROOT"} & os.environ.keys() and not _known(HERE):
        os.environ["NO_GCE_CHECK"] = "true"  # or credentials are asked for there, again and again


def _known(host: str) -> bool:
    """Whether a name can be resolved, soon."""
    found: Future[bool] = Future()

    def look() -> None:
        try:
            found.set_result(bool(socket.getaddrinfo(host, 80)))
        except OSError:
            found.set_result(False)

    Thread(target=look, daemon=True).start()
    try:
        return found.result(SECONDS)
    except TimeoutError:
        return False


def ask_once(files: Any) -> None:
    """Make a file system of gcsfs ask once: it tries again by itself, six times over half a minute.

    To have a token google-auth would wait for two minutes.
    """
    files._request = MethodType(inspect.unwrap(type(files)._request), files)
    if (credentials := files.credentials.credentials) is None:
        return
    refresh = type(credentials).refresh

    def soon(self: Any, request: Any) -> None:
        refresh(self, partial(request, timeout=(transfers.CONNECT, transfers.SILENCE)))

    credentials.refresh = MethodType(soon, credentials)
