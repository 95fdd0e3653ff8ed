"""Questions to servers, by fsspec: asked again until they are answered, or often enough.

Credentials are those of the usual environment.
"""

from __future__ import annotations

import asyncio
import importlib
import re
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

from metaqap_fast.errors import ImageError, MetaqapError, UsageError
from metaqap_fast.input import objects
from metaqap_fast.input.places import plain

TRIES = 5
LOST = 20  # requests in a row that fail as often: the connection is gone
PAUSE = 0.2  # seconds before the second, and twice as long each time
SECONDS = 60.0  # for one answer, whole
THREADS = 64  # that wait for answers
# By protocol, what fsspec's own defaults are too small or too patient for.
SETTINGS: dict[str, dict[str, Any]] = {
    "s3": {
        "config_kwargs": {
            "max_pool_connections": THREADS,
            "retries": {"mode": "standard", "max_attempts": 2},
            "connect_timeout": 10,
            "read_timeout": 20,
        }
    },
}
VERSIONS = (
    "ETag",
    "etag",
    "md5Hash",
    "checksum",
    "blob_id",
    "LastModified",
    "last_modified",
    "mtime",
    "updated",
    "created",
)
# Asking again would not help.
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)

T = TypeVar("T")
_unanswered: Counter[int] = Counter()  # requests in a row that have failed, by file system


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path there.

    Raises:
        MetaqapError: what is needed for it is not installed.
        UsageError: nobody knows such URLs.
    """
    try:
        fsspec = importlib.import_module("fsspec")
        protocol = url.split("://")[0]
        settings = {"use_listings_cache": False, **SETTINGS.get("s3" if protocol == "s3a" else protocol, {})}
        files, path = fsspec.core.url_to_fs(url, **settings)
        if hasattr(files, "retries"):  # s3fs and gcsfs have tries of their own
            files.retries = 1
        if objects.is_s3(files):
            importlib.import_module("obstore")
        return files, str(path)
    except ImportError as error:
        needed = "pip install 'metaqap-fast[remote]'"
        raise MetaqapError(f"{name_of(url)} needs more packages: {needed} ({error})") from None
    except ValueError as error:
        raise UsageError(f"cannot read {name_of(url)}: {line(error)}") from None


def name_of(url: str) -> str:
    """A URL without credentials."""
    return plain(url.encode(errors="surrogateescape")).decode(errors="backslashreplace")


def about(info: dict[str, Any]) -> tuple[int, str]:
    """Size and version, -1 and empty where they are not said."""
    version = next((str(info[name]).strip('"') for name in VERSIONS if info.get(name)), "")
    size = info.get("size")
    return -1 if size is None else int(size), version


def again(files: Any, ask: Callable[[], T]) -> T:
    """The answer to a question that is asked until it is answered, or often enough.

    Raises:
        OSError: why not.
        MetaqapError: nothing at all has been answered for a while: the connection, not the file, is lost.
    """
    for turn in range(TRIES):
        try:
            found = ask()
            _unanswered[id(files)] = 0
            return found
        except ImageError:
            raise
        except Exception as given:  # noqa: BLE001 -- every library for a protocol has its own
            error = _reason(given)
            if isinstance(error, FINAL):
                raise type(error)(line(error)) from None
            if turn + 1 == TRIES:
                _unanswered[id(files)] += 1
                if _unanswered[id(files)] > LOST:
                    raise MetaqapError(
                        f"the connection is lost: {LOST} requests to {_protocol(files)} have failed {TRIES} times "
                        f"each. Go on with --resume once it answers. The last one: {line(error)}"
                    ) from None
                raise OSError(line(error)) from None
        time.sleep(PAUSE * 2**turn)
    raise AssertionError


def _reason(error: Exception) -> Exception:
    """What an error means, whatever its library calls it."""
    if isinstance(error, FileNotFoundError):  # to fsspec, whatever a web server answers, or does not
        error = error.__cause__ if isinstance(error.__cause__, Exception) else FileNotFoundError("no such file")
    status = _status(error) or _status(error.__cause__)
    if status in (404, 410):
        return FileNotFoundError("no such file")
    if status in (401, 403) or "credentials" in str(error).lower():
        return PermissionError(line(error))
    return error


def _status(error: BaseException | None) -> int:
    """The HTTP status that an error of aiohttp or botocore stands for; 0 if it stands for none."""
    response = getattr(error, "response", None)
    found = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
    return int(found or getattr(error, "status", 0) or 0)


def _protocol(files: Any) -> str:
    return files.protocol if isinstance(files.protocol, str) else str(files.protocol[0])


def fetch(files: Any, path: str, start: int, stop: int) -> bytes:
    """Bytes of a file; all of them.

    Raises:
        OSError: they do not come.
    """

    def ask() -> bytes:
        if start == stop:
            return b""
        found = objects.get(files, path, start, stop, SECONDS) if objects.is_s3(files) else None
        if found is None and getattr(files, "async_impl", False):
            from fsspec import asyn

            found = asyn.sync(files.loop, _in_time, files, path, start, stop)
        elif found is None:
            found = files.cat_file(path, start=start, end=stop)
        if len(found) != stop - start:
            raise OSError(f"{len(found)} bytes came instead of {stop - start}")
        return bytes(found)

    return again(files, ask)


async def _in_time(files: Any, path: str, start: int, stop: int) -> bytes:
    try:
        found: bytes = await asyncio.wait_for(files._cat_file(path, start=start, end=stop), SECONDS)
        return found
    except TimeoutError:
        raise OSError(f"no whole answer within {SECONDS:.0f} s") from None


def line(error: BaseException) -> str:
    """What an error says, in one line and without the secrets that a URL may hold."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = re.sub(r"(https?://[^\s?'\"]*)\?[^\s'\"]*", r"\1", " ".join(text.split()))
    return text[:300] or type(error).__name__


@cache
def pool() -> ThreadPoolExecutor:
    """Threads that wait for answers."""
    return ThreadPoolExecutor(THREADS, thread_name_prefix="remote")
