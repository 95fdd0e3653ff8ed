"""Servers that are not reached: one line that names what was asked for, after seconds."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import fsspec
import pytest

from metaqap_fast.errors import MetaqapError
from metaqap_fast.input import fetch, google, open_sources, transfers


@pytest.fixture
def silent() -> Iterator[str]:
    """A port of this machine where nothing answers: its queue of connections is full, so that more are dropped."""
    with socket.socket() as server, ExitStack() as waiting:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_web_server_that_is_not_reached(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "CONNECT", 0.1)
    monkeypatch.setattr(fetch, "PATIENCE", 0.1)
    with pytest.raises(MetaqapError, match=f"cannot read {silent}/a.tar: no connection: Connection timeout"):
        open_sources([f"{silent}/a.tar"])
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/a.tar"
        with pytest.raises(MetaqapError, match=f"cannot read {url}: no connection: Connect call failed"):
            open_sources([url])
        url = url.replace("http", "ftp")  # connects before anything is asked for
        with pytest.raises(MetaqapError, match=f"cannot read {url}: no connection: Connection refused"):
            open_sources([url])


@pytest.mark.full
def test_a_bucket_that_is_not_reached(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    monkeypatch.setattr(transfers, "CONNECT", 0.1)
    monkeypatch.setattr(fetch, "PATIENCE", 0.1)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", silent)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(MetaqapError, match="cannot read s3://data/photos: no connection: Connect timeout"):
        open_sources(["s3://data/photos"])
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.full
def test_a_token_that_is_not_given(silent: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """google-auth waits for 120 s by itself."""
    import gcsfs
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    pem = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {"type": "service_account", "client_email": "a@b", "private_key": pem.decode(), "token_uri": silent}
    (tmp_path / "key.json").write_text(json.dumps({**account, "project_id": "p", "private_key_id": "k"}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setattr(transfers, "CONNECT", 0.1)
    monkeypatch.setattr(fetch, "PATIENCE", 0.1)
    gcsfs.GCSFileSystem.clear_instance_cache()
    start = time.monotonic()
    with pytest.raises(MetaqapError, match="cannot read gs://bucket/photos: no connection: "):
        open_sources(["gs://bucket/photos"])
    assert time.monotonic() - start < 60
    gcsfs.GCSFileSystem.clear_instance_cache()


def test_settings_of_the_user_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"s3": {"config_kwargs": {"read_timeout": 99}}, "http": {"client_kwargs": {"trust_env": True}}}
    for name, settings in told.items():
        monkeypatch.setitem(fsspec.config.conf, name, settings)
    config = fetch._settings("s3")["config_kwargs"]
    assert config["read_timeout"] == 99 and config["connect_timeout"] == transfers.CONNECT
    assert fetch._settings("https")["client_kwargs"]["trust_env"]


@pytest.mark.parametrize(("known", "asked"), [(True, None), (False, "true")])
def test_credentials_of_googles_machines(monkeypatch: pytest.MonkeyPatch, known: bool, asked: str | None) -> None:
    """Elsewhere nobody asks for them, which would take a quarter of a minute."""
    environment: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(google, "_known", lambda host: known)
    google.prepare.__wrapped__()
    assert environment.get("NO_GCE_CHECK") == asked
    environment.clear()
    environment["GCE_METADATA_HOST"] = "here"
    google.prepare.__wrapped__()
    assert "NO_GCE_CHECK" not in environment


def test_a_name_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert google._known("127.0.0.1") and not google._known("no-such-host.invalid")
    end = threading.Event()
    monkeypatch.setattr(google, "SECONDS", 0.01)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: end.wait())
    assert not google._known("127.0.0.1")
    end.set()
