"""An S3 server for tests, in the environment of this process while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from metaqap_fast.input import objects


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Any]:
    """A server that holds `files` in the bucket "data"."""
    from metaqap_fast.bench.s3_server import Server, put

    with Server() as server, pytest.MonkeyPatch.context() as patch:
        forget()  # earlier servers; and fsspec looks at the environment once, which is not yet that of this one
        for name, value in server.environment.items():
            patch.setenv(name, value)
        put(files)
        yield server
        forget()


def forget() -> None:
    """What s3fs and `objects` keep of servers that they have seen."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    objects._bucket.cache_clear()
