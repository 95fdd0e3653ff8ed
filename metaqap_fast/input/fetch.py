"""Questions to servers, by fsspec: asked again until they are answered, or often enough.

Credentials are those of the usual environment.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import re
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

from metaqap_fast.errors import ImageError, MetaqapError, UsageError
from metaqap_fast.input import google, hub, objects, transfers
from metaqap_fast.input.places import plain

TRIES = 5
LOST = 20  # requests in a row that fail as often: the connection is gone
PAUSE = 0.2  # seconds before the second, and twice as long each time
SECONDS = 60.0  # for one answer, whole
PATIENCE = 10.0  # seconds after which a server that has never answered is not asked again
THREADS = 64  # that wait for answers
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
OURS = ("s3", "s3a", "gs", "gcs", "hf", "http", "https")  # what the extra `remote` brings
# Asking again would not help.
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)

# By their names in aiohttp, botocore, httpx, urllib3 and Python: nobody was reached.
UNREACHED = re.compile("Connector|Connect(ion)?Timeout|EndpointConnection|ConnectError|NewConnection|gaierror|Refused")

T = TypeVar("T")
_unanswered: Counter[int] = Counter()  # requests in a row that have failed, by file system
_reached: set[int] = set()  # file systems that have answered


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path there.

    Raises:
        MetaqapError: what is needed for it is not installed.
        UsageError: nobody knows such URLs, or it is no more than their beginning.
    """
    protocol, _, rest = url.partition("://")
    protocol = protocol.lower()
    if not rest.strip("/") and protocol not in ("file", "local"):
        raise UsageError(f"{url} names nothing: a bucket, a server or a repository must follow")
    try:
        fsspec = importlib.import_module("fsspec")
        logging.getLogger("gcsfs").addHandler(logging.NullHandler())  # or errors are shown with their traceback
        if protocol in google.PROTOCOLS:
            google.prepare()
        files, path = fsspec.core.url_to_fs(f"{protocol}://{rest}", use_listings_cache=False, **_settings(protocol))
        if protocol in google.PROTOCOLS:
            google.ask_once(files)
        elif hasattr(files, "retries"):  # s3fs has tries of its own
            files.retries = 1
        if objects.is_s3(files) or hub.is_hub(files):
            importlib.import_module("pycurl")
        return files, str(path)
    except ImportError as error:
        ours = protocol in OURS or (error.name or "").startswith("fsspec")
        needed = f"pip install 'metaqap-fast[remote]' ({error})" if ours else line(error)
        raise MetaqapError(f"{name_of(url)} needs more packages: {needed}") from None
    except Exception as error:  # noqa: BLE001 -- some connect at once, and some need what no URL has
        kind = MetaqapError if isinstance(error, OSError) else UsageError
        raise kind(f"cannot read {name_of(url)}: {line(_reason(error))}") from None


def _settings(protocol: str) -> dict[str, Any]:
    """What fsspec's own defaults are too small or too patient for. What the user has set for fsspec stays."""
    if protocol in ("s3", "s3a"):
        once = {"mode": "standard", "total_max_attempts": 1}
        timeouts = {"connect_timeout": transfers.CONNECT, "read_timeout": transfers.SILENCE}
        config = {**timeouts, "retries": once, "max_pool_connections": THREADS}
        return _with_users(("s3", "s3a"), "config_kwargs", config)
    if protocol in ("http", "https", *google.PROTOCOLS):
        limits = {"connect": transfers.CONNECT, "sock_read": transfers.SILENCE}
        timeout = importlib.import_module("aiohttp").ClientTimeout(SECONDS, **limits)
        if protocol in google.PROTOCOLS:
            return {"requests_timeout": timeout}
        return _with_users(("http", "https"), "client_kwargs", {"timeout": timeout})
    return {}


def _with_users(protocols: tuple[str, ...], name: str, ours: dict[str, Any]) -> dict[str, Any]:
    """A setting of fsspec that is a dict: fsspec itself would take either ours or the user's."""
    told = importlib.import_module("fsspec.config").conf
    return {name: {**ours, **{k: v for each in protocols for k, v in told.get(each, {}).get(name, {}).items()}}}


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

    The first question to a server is not asked for longer than `PATIENCE`: there may be no network.

    Raises:
        OSError: why not.
        MetaqapError: nothing at all has been answered for a while: the connection, not the file, is lost.
    """
    start = time.monotonic()
    for turn in range(TRIES):
        try:
            found = ask()
            _unanswered[id(files)] = 0
            _reached.add(id(files))
            return found
        except ImageError:
            raise
        except Exception as given:  # noqa: BLE001 -- every library for a protocol has its own
            error = _reason(given)
            if isinstance(error, FINAL):
                raise type(error)(line(error)) from None
            if turn + 1 == TRIES or (id(files) not in _reached and time.monotonic() - start > PATIENCE):
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
    error = objects.reason(error)
    if isinstance(error, FileNotFoundError):  # to fsspec, whatever a web server answers, or does not
        error = error.__cause__ if isinstance(error.__cause__, Exception) else FileNotFoundError("no such file")
    status = _status(error) or _status(error.__cause__)
    if status in (404, 410):
        return FileNotFoundError("no such file")
    # gcsfs has no status with a 403.
    if status in (401, 403) or "credentials" in str(error).lower() or str(error).startswith("Forbidden: "):
        return PermissionError(line(error))
    return OSError(f"no connection: {line(error)}") if _unreached(error) else error


def _unreached(error: BaseException | None) -> bool:
    """Whether an error, or what has led to it, says that no connection was made."""
    while error is not None:
        if any(UNREACHED.search(kind.__name__) for kind in type(error).__mro__):
            return True
        error = error.__cause__ or error.__context__
    return False


def _status(error: BaseException | None) -> int:
    """The HTTP status that an error of aiohttp, botocore, gcsfs or huggingface_hub stands for; 0 if of none."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(response, "status_code", 0)
    found = found or getattr(error, "status", 0) or getattr(error, "code", 0)
    return int(found) if str(found).isdigit() else 0


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
        coming = _asked(files, path, start, stop)
        found = None
        if coming is not None:
            found = coming.result()
        elif getattr(files, "async_impl", False):
            from fsspec import asyn

            found = asyn.sync(files.loop, _in_time, files, path, start, stop)
        else:
            found = files.cat_file(path, start=start, end=stop)
        if len(found) != stop - start:
            raise OSError(f"{len(found)} bytes came instead of {stop - start}")
        return bytes(found)

    return again(files, ask)


def begin(files: Any, path: str, size: int) -> Future[bytes] | None:
    """A whole file, on its way: asked for once, without waiting. None where only `fetch` can have it.

    The future may have any error: `fetch` asks again, and knows what it means.
    """
    if not size:
        return None
    try:
        coming = _asked(files, path, 0, size)
    except Exception:  # noqa: BLE001 -- for `fetch` to find
        return None
    if coming is not None:
        coming.add_done_callback(lambda done: _answered(files, done))
    return coming


def _answered(files: Any, done: Future[bytes]) -> None:
    if not done.cancelled() and done.exception() is None:
        _unanswered[id(files)] = 0
        _reached.add(id(files))


def _asked(files: Any, path: str, start: int, stop: int) -> Future[bytes] | None:
    if hub.is_hub(files):
        return hub.get(files, path, start, stop, SECONDS)
    return objects.get(files, path, start, stop, SECONDS) if objects.is_s3(files) else None


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
    return text[:300] or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)


@cache
def pool() -> ThreadPoolExecutor:
    """Threads that wait for answers."""
    return ThreadPoolExecutor(THREADS, thread_name_prefix="remote")
