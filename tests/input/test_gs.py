"""Buckets of Google Cloud Storage: gcsfs against an emulator on this machine."""

from __future__ import annotations

import re
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
from PIL import Image

from archives import FILES, STORED, as_parquet, as_tar, scored_alike
from archives import found as rows
from images import encode
from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.input import fetch, open_sources

pytestmark = pytest.mark.full  # its packages take seconds to import
BUCKET = "gs://data"


def put(files: dict[str, bytes], url: str) -> None:
    for name, content in files.items():
        there = f"{url}/upload/storage/v1/b/data/o?uploadType=media&name={quote(name, safe='')}"
        headers = {"Content-Type": "application/octet-stream"}
        urllib.request.urlopen(urllib.request.Request(there, content, headers, method="POST")).close()


@pytest.fixture(scope="module")
def started() -> Iterator[str]:
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason="pip install gcp-storage-emulator")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HTTPServer, "request_queue_size", 200)  # it takes 5 at once, and others after a second
        server = emulator.create_server("127.0.0.1", 0, in_memory=True, default_bucket="data")
        server.start()
        url = f"http://127.0.0.1:{server._api._httpd.server_port}"
        put(STORED, url)
        yield url
        server.stop()


@pytest.fixture
def server(started: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Paths -> status, of what is refused; may be changed at any time."""
    import fsspec
    from fsspec.registry import _registry
    from gcp_storage_emulator.server import Router
    from gcsfs.core import GCSFileSystem

    # gcsfs's other class first asks, by gRPC, what kind of bucket it is: emulators do not answer.
    monkeypatch.setitem(_registry, "gs", GCSFileSystem)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", started)
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
    monkeypatch.setattr(fetch, "PAUSE", 0.001)
    GCSFileSystem.clear_instance_cache()
    fetch._unanswered.clear()
    fetch._reached.clear()
    refused: dict[str, int] = {}
    handle = Router.handle

    def answer(self: Any, method: str) -> None:
        asked = unquote(self._request_handler.path)
        status = next((status for part, status in refused.items() if part in asked), 0)
        if not status:
            handle(self, method)
            return
        self._request_handler.send_response(status)
        self._request_handler.send_header("Content-Length", "0")
        self._request_handler.end_headers()

    monkeypatch.setattr(Router, "handle", answer)
    yield refused
    GCSFileSystem.clear_instance_cache()


def test_every_kind_of_source(server: dict[str, int]) -> None:
    assert rows(f"{BUCKET}/photos") == FILES
    assert rows(f"{BUCKET}/photos/0/*.jpg") == {name[2:]: data for name, data in FILES.items() if name[0] == "0"}
    for name in ("a.tar", "b.zip", "d.tgz", "c.parquet"):
        expected = {f"{name}/{member}": data for member, data in FILES.items()}
        assert rows(f"{BUCKET}/shards/{name}", key="name" if name == "c.parquet" else "") == expected
    source = open_sources([f"{BUCKET}/photos"])
    stamps = [entry.stamp() for entry in source]
    assert source.root == "gs://data/photos"
    assert source.left_out == {".git": 1, "._ file": 1, "no image extension": 1}
    assert all(stamp.size >= 4 and stamp.version for stamp in stamps)


@pytest.mark.parametrize("status", [401, 403])
def test_a_bucket_that_is_not_ours(server: dict[str, int], status: int) -> None:
    server["/b/data"] = status
    for name in (f"{BUCKET}/photos", f"{BUCKET}/shards/a.tar"):
        with pytest.raises((UsageError, MetaqapError), match=f"(no permission to read|cannot list) {BUCKET}"):
            list(open_sources([name]))


def test_what_is_not_there_or_refused_is_a_row(
    server: dict[str, int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in (f"{BUCKET}/none.jpg", f"{BUCKET}/none", "gs://no-such-bucket/a.tar"):
        with pytest.raises(UsageError, match=f"nothing is there: {name}"):
            open_sources([name])
    server["photos/1/004.jpg"] = 403
    names = ["photos/1/001.jpg", "photos/1/004.jpg", "photos/1/gone.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(f"{BUCKET}/{name}" for name in names))
    found = rows(f"@{tmp_path}/list.txt")
    assert found["001.jpg"] == FILES["1/001.jpg"] and found["gone.jpg"] == "no such file"
    assert isinstance(found["004.jpg"], str) and "Forbidden" in found["004.jpg"] and "\n" not in found["004.jpg"]
    assert "gcsfs" not in capfd.readouterr().err  # which logs errors with their traceback


def test_tries_are_ours(server: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """gcsfs would try six times for each of ours, over half a minute."""
    server["photos/1/004.jpg"] = 503
    pauses, start = [], time.monotonic()

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            server.clear()

    with monkeypatch.context() as patch:
        patch.setattr(fetch.time, "sleep", pause)
        assert rows(f"{BUCKET}/photos/1/004.jpg") == {"004.jpg": FILES["1/004.jpg"]}
    assert len(pauses) == 3 and time.monotonic() - start < 10


@pytest.mark.parametrize("name", ["gs://far/photos", "gs://far/photos/a.tar", "gs://far/*.tar"])
def test_no_network_is_said_at_once(server: dict[str, int], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from gcsfs.core import GCSFileSystem

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{closed.getsockname()[1]}")
        GCSFileSystem.clear_instance_cache()
        start = time.monotonic()
        with pytest.raises(MetaqapError, match=rf"^cannot read {re.escape(name)}: no connection: Connect call failed"):
            open_sources([name])
        assert time.monotonic() - start < 5


def test_the_same_scores_as_from_a_disk(
    server: dict[str, int],
    started: str,
    bundle: Path,
    tmp_path: Path,
    photo: Image.Image,
    cli: Callable[..., Any],
) -> None:
    files = {f"{i:02d}.png": encode(photo.crop((i, i, i + 80, i + 80)), "PNG") for i in range(12)}
    stored = {f"run/{name}": data for name, data in files.items()}
    put({**stored, "run.tar": as_tar(files), "run.parquet": as_parquet(files)}, started)
    (tmp_path / "run").mkdir()
    for name, data in files.items():
        (tmp_path / "run" / name).write_bytes(data)
    sources = (tmp_path / "run", f"{BUCKET}/run", f"{BUCKET}/run.tar", f"{BUCKET}/run.parquet")
    scored_alike(cli, sources, bundle, tmp_path, files)
