"""Files of a Hugging Face hub: huggingface_hub lists them, libcurl reads them.

huggingface_hub has a thread wait for each, reads more than it is asked for, and tries again by itself for a long time.
"""

from __future__ import annotations

import importlib
import os
from concurrent.futures import Future
from functools import lru_cache
from typing import Any

from metaqap_fast.input.transfers import Client, Range


def is_hub(files: Any) -> bool:
    """Whether a file system of fsspec is huggingface_hub's."""
    return bool(files.protocol == "hf")


def get(files: Any, path: str, start: int, stop: int, seconds: float) -> Future[bytes]:
    """Bytes of a file, without waiting for them.

    Args:
        files: an `HfFileSystem`.
        path: there.
        start, stop: which bytes, at least one.
        seconds: after which there is no more waiting.

    Raises:
        Exception: huggingface_hub's: the repository is not there, or not open to whom the token names.
    """
    headers = importlib.import_module("huggingface_hub.utils").build_hf_headers(token=files.token)
    told = tuple(f"{name}: {value}" for name, value in headers.items() if name.lower() != "user-agent")
    return _client(seconds).get(Range(files.url(path), start, stop, told))


@lru_cache
def _client(seconds: float) -> Client:
    named = (os.environ.get(name) for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"))
    trusted = next(filter(None, named), None) or importlib.import_module("certifi").where()
    return Client({"CAINFO": trusted, "FOLLOWLOCATION": 1, "MAXREDIRS": 5}, seconds)  # large files lie elsewhere
