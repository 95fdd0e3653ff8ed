"""Objects in S3 buckets, by libcurl.

s3fs needs many times the processor time. What it finds (credentials, endpoint, region, certificates) is used.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any
from urllib.parse import quote

from metaqap_fast.input.transfers import Client, Range, Refused

FRESH = 600  # seconds; what botocore gives out is good for longer than that
AMAZON = "amazonaws.com"  # where a bucket is only served in its own region
_lock = Lock()


def is_s3(files: Any) -> bool:
    """Whether a file system of fsspec is s3fs."""
    return hasattr(files, "get_s3")


def get(files: Any, path: str, start: int, stop: int, seconds: float) -> Future[bytes] | None:
    """Bytes of an object, without waiting for them. None if only s3fs can ask for it.

    Args:
        files: an s3fs file system.
        path: bucket and key.
        start, stop: which bytes, at least one.
        seconds: after which there is no more waiting.

    Raises:
        PermissionError: there are no credentials.
    """
    bucket, key, version = files.split_path(path)
    dots = "/." in f"/{key}" and any(part in (".", "..") for part in key.split("/"))  # which libcurl would resolve
    if dots or version or not regular(bucket) or files.s3_additional_kwargs:  # the last are added to requests
        return None
    with _lock:  # the first of many threads makes it
        there = _bucket(files, bucket, seconds)
    return there.client.get(Range(there.url + quote(key, safe="/~"), start, stop, *there.signed()))


def reason(error: Exception) -> Exception:
    """What an answer that is not the bytes means."""
    if not isinstance(error, Refused):
        return error
    code = re.search(rb"<Code>(\w+)</Code>", error.body)
    said = f"{error}, {code[1].decode()}" if code else str(error)
    if error.status in (404, 410):
        return FileNotFoundError("no such file")
    return PermissionError(said) if error.status in (401, 403) else OSError(said)


def head(files: Any, path: str) -> dict[str, Any]:
    """What is known of an object. Raises `FileNotFoundError` if there is none."""
    bucket, key, _ = files.split_path(path)
    found = files.call_s3("head_object", Bucket=bucket, Key=key, **files.req_kw)
    return {"name": path, "type": "file", "size": found["ContentLength"], "ETag": found.get("ETag", "")}


def listing(files: Any, bucket: str, query: str, seconds: float) -> Future[bytes]:
    """What a server says of a bucket, as XML, without waiting for it.

    Args and errors are those of `get`; query: of the URL.
    """
    with _lock:
        there = _bucket(files, bucket, seconds)
    return there.client.get(Range(f"{there.url}?{query}", 0, 0, *there.signed()))


def regular(bucket: str) -> bool:
    """Whether libcurl can ask for what is in a bucket: it is no access point and no directory bucket."""
    return not bucket.startswith("arn:") and not bucket.endswith("--x-s3")


@dataclass(frozen=True)
class _Bucket:
    """How objects of a bucket are asked for."""

    url: str
    client: Client
    credentials: Callable[[], tuple[str, str, str]] | None  # key, secret, token
    headers: tuple[str, ...]

    def signed(self) -> tuple[tuple[str, ...], str, str]:
        """What a request needs to be signed: headers, key and secret."""
        if self.credentials is None:
            return self.headers, "", ""
        key, secret, token = self.credentials()
        return (*self.headers, f"x-amz-security-token: {token}") if token else self.headers, key, secret


@lru_cache(64)
def _bucket(files: Any, bucket: str, seconds: float) -> _Bucket:
    """A bucket, with the settings of s3fs."""
    client = _client(files, bucket)
    endpoint, styles = client.meta.endpoint_url.rstrip("/"), client.meta.config.s3 or {}
    virtual = styles.get("addressing_style") == "virtual"
    url = endpoint.replace("://", f"://{bucket}.", 1) + "/" if virtual else f"{endpoint}/{bucket}/"
    options = _certificates(files)
    if not files.anon:
        options["AWS_SIGV4"] = f"aws:amz:{client.meta.region_name or 'us-east-1'}:s3"
    headers = ("x-amz-request-payer: requester",) if files.requester_pays else ()
    return _Bucket(url, Client(options, seconds), None if files.anon else _credentials(files), headers)


def _client(files: Any, bucket: str) -> Any:
    """botocore's client for a bucket."""
    from fsspec import asyn

    files.connect()
    client = asyn.sync(files.loop, files.get_s3, bucket)
    if AMAZON in client.meta.endpoint_url and not files.cache_regions:
        regional = type(files)(*files.storage_args, **{**files.storage_options, "cache_regions": True})
        regional.connect()
        client = asyn.sync(files.loop, regional.get_s3, bucket)
    return client


def _credentials(files: Any) -> Callable[[], tuple[str, str, str]]:
    """Gives credentials: those of s3fs's settings, or what botocore finds and keeps fresh."""
    from fsspec import asyn

    settings = files.client_kwargs
    if key := files.key or settings.get("aws_access_key_id"):
        secret = files.secret or settings.get("aws_secret_access_key")
        token = files.token or settings.get("aws_session_token")
        return lambda: (key, secret or "", token or "")
    found = asyn.sync(files.loop, files.session.get_credentials)
    if found is None:
        raise PermissionError("unable to locate credentials")
    now, until = ("", "", ""), 0.0

    def fresh() -> tuple[str, str, str]:
        nonlocal now, until
        if time.monotonic() >= until:
            frozen = asyn.sync(files.loop, found.get_frozen_credentials)
            now, until = (frozen.access_key, frozen.secret_key, frozen.token or ""), time.monotonic() + FRESH
        return now

    return fresh


def _certificates(files: Any) -> dict[str, Any]:
    """Whom to trust: whom botocore does."""
    from botocore.httpsession import get_cert_path

    trusted = files.client_kwargs.get("verify")
    if trusted is None:
        trusted = files.session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE", True)
    if trusted is False:
        return {"SSL_VERIFYPEER": 0, "SSL_VERIFYHOST": 0}
    return {"CAINFO": str(get_cert_path(trusted))}
