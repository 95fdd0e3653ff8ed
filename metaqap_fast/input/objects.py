"""Objects in S3 buckets: their names page by page, by s3fs, and their bytes, by obstore.

s3fs needs five times the processor time to read one. What it has found to list them (credentials, endpoint, region,
certificates) is used to read them too.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

FRESH = timedelta(minutes=10)  # what botocore gives out is good for longer than that
AMAZON = "amazonaws.com"  # where a bucket is only served in its own region
# What obstore calls them, in the words of its error.
BROKEN = {
    "Connect": "no connection",
    "Request": "the connection broke off",
    "Interrupted": "the answer broke off",
    "Timeout": "no whole answer in time",
}
SLASH = ord("/")
_lock = Lock()


def is_s3(files: Any) -> bool:
    """Whether a file system of fsspec is s3fs."""
    return hasattr(files, "get_s3")


def get(files: Any, path: str, start: int, stop: int, seconds: float) -> bytes | None:
    """Bytes of an object; fewer if it ends before. None if obstore cannot ask for it and s3fs has to.

    Args:
        files: an s3fs file system.
        path: bucket and key.
        start, stop: which bytes, at least one.
        seconds: after which there is no more waiting.

    Raises:
        OSError: they do not come. This is not asked again.
    """
    obstore = importlib.import_module("obstore")
    bucket, key, version = files.split_path(path)
    # Access points, directory buckets, versions, and what s3fs is told to add to requests.
    special = bucket.startswith("arn:") or bucket.endswith("--x-s3") or files.s3_additional_kwargs
    if special or version or key != key.strip("/"):  # obstore would take a slash for none
        return None
    with _lock:  # the first of many threads makes it
        store = _store(files, bucket, seconds)
    try:
        return bytes(obstore.get_range(store, key, start=start, end=stop))
    except FileNotFoundError:
        raise FileNotFoundError("no such file") from None
    except ValueError as error:
        if str(error).startswith("Could not parse path"):  # two slashes in a row, a tab
            return None
        raise
    except (obstore.exceptions.PermissionDeniedError, obstore.exceptions.UnauthenticatedError) as error:
        raise PermissionError(reason(str(error))) from None
    except obstore.exceptions.BaseError as error:
        raise OSError(reason(str(error))) from None


def page(files: Any, path: str, token: str) -> tuple[list[dict[str, Any]], str]:
    """Some of what is in a folder, 1,000 names at most, and a token for the page after it; empty if there is none.

    Pages are in the order of the bytes of their names, those of folders with a slash at their end.

    Args: an s3fs file system; bucket and folder; an earlier page's token.
    """
    bucket, folder, _ = files.split_path(path)
    if files.version_aware or bucket.endswith("--x-s3"):  # in no order
        return files.ls(path, detail=True), ""
    prefix = folder.rstrip("/") + "/" if folder else ""
    asked = {"Bucket": bucket, "Prefix": prefix, "Delimiter": "/", **files.req_kw}
    if token:
        asked["ContinuationToken"] = token
    found = files.call_s3("list_objects_v2", **asked)
    folders = (
        {"name": f"{bucket}/{each['Prefix'][:-1]}", "type": "directory"} for each in found.get("CommonPrefixes", ())
    )
    objects = (
        {**each, "name": f"{bucket}/{each['Key']}", "type": "file", "size": each["Size"]}
        for each in found.get("Contents", ())
    )
    return [*folders, *objects], found["NextContinuationToken"] if found.get("IsTruncated") else ""


def settled(name: bytes, last: bytes) -> bool:
    """Whether no later page can hold what comes before a name in the order of keys.

    Keys have a folder before all names that go on where its own ends: `a/` before `a-1.jpg`; pages have it after them.

    Args: a name in a folder; the last one of the pages so far.
    """
    return all(name[:end] + b"/" <= last for end, letter in enumerate(name) if letter < SLASH)


def reason(text: str) -> str:
    """An error of obstore in a few words: it has many lines, an address and a time."""
    said, _, details = text.partition("\n\nDebug source")
    if answer := re.search(r"non-2xx status code: (\d+[\w ]*)", said):
        code = re.search(r"<Code>(\w+)</Code>", said)
        return f"the server answers {answer[1]}" + (f", {code[1]}" if code else "")
    kind = re.search(r"HttpError \{\s*kind: (\w+)", details)
    if kind and kind[1] in BROKEN:
        why = re.search(r'message: "([^"]+)"|InvalidCertificate\(\s*(\w+)', details)
        return BROKEN[kind[1]] + (f": {why[1] or 'certificate, ' + why[2]}" if why else "")
    return " ".join(said.split())


@lru_cache(64)
def _store(files: Any, bucket: str, seconds: float) -> Any:
    """A bucket of obstore, with the settings of s3fs."""
    client = _client(files, bucket)
    endpoint, styles = client.meta.endpoint_url, client.meta.config.s3 or {}
    virtual = styles.get("addressing_style") == "virtual"
    if virtual:
        endpoint = endpoint.replace("://", f"://{bucket}.", 1)
    return importlib.import_module("obstore.store").S3Store(
        bucket,
        endpoint=endpoint,
        aws_endpoint_url_s3=endpoint,  # or its variable would come first
        virtual_hosted_style_request=virtual,
        region=client.meta.region_name,
        skip_signature=bool(files.anon),
        request_payer=bool(files.requester_pays),
        credential_provider=None if files.anon else _credentials(files),
        retry_config={"max_retries": 0},
        client_options={
            "allow_http": True,  # if the endpoint is of http
            "connect_timeout": timedelta(seconds=10),
            "read_timeout": timedelta(seconds=20),
            "timeout": timedelta(seconds=seconds),
            **_certificates(files),
        },
    )


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


def _credentials(files: Any) -> Callable[[], dict[str, Any]]:
    """Gives credentials: those of s3fs's settings, or what botocore finds and keeps fresh."""
    from fsspec import asyn

    settings = files.client_kwargs
    if key := files.key or settings.get("aws_access_key_id"):
        secret = files.secret or settings.get("aws_secret_access_key")
        token = files.token or settings.get("aws_session_token")
        return lambda: {"access_key_id": key, "secret_access_key": secret, "token": token, "expires_at": None}
    found = asyn.sync(files.loop, files.session.get_credentials)
    if found is None:
        raise PermissionError("unable to locate credentials")

    def fresh() -> dict[str, Any]:
        until = datetime.now(UTC) + FRESH
        now = asyn.sync(files.loop, found.get_frozen_credentials)
        return {
            "access_key_id": now.access_key,
            "secret_access_key": now.secret_key,
            "token": now.token,
            "expires_at": until,
        }

    return fresh


def _certificates(files: Any) -> dict[str, Any]:
    """Whom to trust besides those whom the system trusts: whom botocore does."""
    from botocore.httpsession import get_cert_path

    trusted = files.client_kwargs.get("verify")
    if trusted is None:
        trusted = files.session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE", True)
    if trusted is False:
        return {"allow_invalid_certificates": True}
    return {"root_certificate": Path(get_cert_path(trusted)).read_bytes()}
