"""Objects of buckets are read by libcurl, with what s3fs knows (credentials, regions)."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archives import FILES, JPEG, STORED
from archives import found as rows
from buckets import forget, serving
from metaqap_fast.errors import MetaqapError
from metaqap_fast.input import distant, fetch, objects, open_sources, remote_walk
from metaqap_fast.records import key_order

BUCKET = "s3://data"
ODD = (
    "d//e.jpg",
    "f/../g.jpg",
    "tab\t.jpg",
    "100%.jpg",
    "a%20b.jpg",
    "a b+c&d=e.jpg",
    "ü😀.jpg",
    "x#y.jpg",
    "[z]~*'.jpg",
)


@pytest.fixture(scope="module")
def started() -> Iterator[Any]:
    import botocore.session

    from metaqap_fast.bench.s3_server import put

    with serving(STORED) as server:
        put({f"odd/{name}": JPEG + name.encode() for name in ODD}, "odd")
        client = botocore.session.get_session().create_client("s3", endpoint_url=server.environment["AWS_ENDPOINT_URL"])
        client.create_bucket(Bucket="far", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        client.put_object(Bucket="far", Key="1.jpg", Body=JPEG)
        client.close()
        yield server


@pytest.fixture
def server(started: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import fsspec

    monkeypatch.setattr(fetch, "PAUSE", 0.001)
    monkeypatch.setitem(fsspec.config.conf, "s3", {})
    forget()
    started.requests.clear()
    yield started


def asked(server: Any, path: str) -> list[Any]:
    """What was asked about an object, or about all in a folder."""
    return [request for request in server.requests if request.path.startswith(path) and request.method == "GET"]


@pytest.mark.full
def test_bytes_come_by_libcurl(server: Any) -> None:
    """s3fs needs many times the processor time."""
    assert rows(f"{BUCKET}/photos") == FILES
    assert len(rows(f"{BUCKET}/shards/a.tar")) == len(FILES)
    read = asked(server, "/data/photos/") + asked(server, "/data/shards/")
    assert len(read) > len(FILES)
    assert {request.agent.partition("/")[0] for request in read} == {"metaqap-fast"}


@pytest.mark.full
def test_every_key(server: Any) -> None:
    expected = {name: JPEG + name.encode() for name in ODD}
    assert rows("s3://odd/odd", "s3://odd/odd/d//e.jpg") == expected
    by = {request.path: request.agent for request in asked(server, "/odd/odd/")}
    assert {path for path, agent in by.items() if agent != "metaqap-fast"} == {"/odd/odd/f/../g.jpg"}
    source = open_sources(["s3://odd/odd"])
    assert len(list(source)) == len(ODD) - 1 and source.left_out == {"folder without a name": 1}


@pytest.mark.full
def test_credentials_of_a_profile_are_renewed(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a program that gives other ones each time."""
    soon = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    program = tmp_path / "keys.py"
    program.write_text(
        "import json, time\n"
        "keys = {'Version': 1, 'AccessKeyId': f'K{time.time_ns()}', 'SecretAccessKey': 's'}\n"
        f"print(json.dumps({{**keys, 'Expiration': '{soon}'}}))"
    )
    (tmp_path / "config").write_text(f"[profile mine]\ncredential_process = {sys.executable} {program}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setattr(objects, "FRESH", 0)
    assert len(rows(f"{BUCKET}/photos/0/000.jpg", f"{BUCKET}/photos/0/003.jpg")) == 2
    keys = [request.key for request in asked(server, "/data/photos/")]
    assert all(key.startswith("K") for key in keys) and len(set(keys)) == len(keys) == 2


@pytest.mark.full
@pytest.mark.parametrize(
    ("settings", "key"), [({"anon": True}, ""), ({"key": "MINE", "secret": "s"}, "MINE"), ({}, "test")]
)
def test_settings_of_fsspec(server: Any, settings: dict[str, Any], key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    monkeypatch.setitem(fsspec.config.conf, "s3", settings)
    assert len(rows(f"{BUCKET}/photos/0")) > 10
    assert {request.key for request in asked(server, "/data/photos/")} == {key}


@pytest.mark.full
def test_a_bucket_in_another_region(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "AMAZON", "127.0.0.1")
    assert rows("s3://far") == {"1.jpg": JPEG}
    assert {request.region for request in asked(server, "/far/1.jpg")} == {"eu-west-1"}


@pytest.mark.full
def test_a_folder_of_many_pages(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of the first page are there before the last page is."""
    everything = [entry.key for entry in open_sources([BUCKET])]
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")
    server.requests.clear()
    entries = iter(open_sources([f"{BUCKET}/photos/0", BUCKET]))
    first = next(entries).key
    pages = len(server.requests)
    assert [first, *(entry.key for entry in entries)] == everything
    assert pages + 5 < len(server.requests)


class Files:
    """A bucket whose pages are as S3 makes them."""

    protocol = "s3"

    def __init__(self, names: set[str], size: int) -> None:
        self.names, self.size = names, size

    def unstrip_protocol(self, path: str) -> str:
        return f"s3://{path}"

    def page(self, path: str, token: str, seconds: float) -> tuple[list[dict[str, Any]], str]:
        start = f"{path}/".partition("/")[2]
        inside = (name.removeprefix(start) for name in self.names if name.startswith(start))
        shown = sorted({name[: name.find("/") + 1] or name for name in inside}, key=str.encode)
        some, more = shown[int(token or 0) :][: self.size], int(token or 0) + self.size
        infos = [
            {"name": f"{path}/{name}".rstrip("/"), "type": "directory" if name.endswith("/") else "file", "size": 1}
            for name in some
        ]
        return infos, str(more) if more < len(shown) else ""


@given(
    st.sets(st.text("a-/b!", min_size=1, max_size=5).filter(lambda name: "//" not in f"/{name}/")), st.integers(1, 4)
)
def test_pages_in_the_order_of_keys(names: set[str], size: int) -> None:
    names = {f"{name}.jpg" for name in names}
    files = Files(names, size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote_walk, "is_s3", lambda files: True)
        patch.setattr(remote_walk, "page", Files.page)
        place = distant.Place(files, "data", {"type": "directory"})
        keys = [entry.key for entry in remote_walk.RemoteWalk(place, b"", Counter())]
    assert keys == sorted((name.encode() for name in names), key=key_order)


def test_a_page_that_does_not_come_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def page(files: Files, path: str, token: str, seconds: float) -> tuple[list[dict[str, Any]], str]:
        if token == "2":
            raise FileNotFoundError("gone")
        return files.page(path, token, seconds)

    monkeypatch.setattr(remote_walk, "is_s3", lambda files: True)
    monkeypatch.setattr(remote_walk, "page", page)
    place = distant.Place(Files({f"a/{i}.jpg" for i in range(4)}, 2), "data", {"type": "directory"})
    walk = iter(remote_walk.RemoteWalk(place, b"", Counter()))
    assert next(walk).key == b"a/0.jpg"  # a folder 1 might come before 1.jpg
    with pytest.raises(MetaqapError, match="cannot list s3://data/a: no such file"):
        next(walk)


def test_without_pycurl_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycurl", None)
    with pytest.raises(MetaqapError, match=r"pip install 'metaqap-fast\[remote\]'"):
        open_sources(["s3://bucket/photos"])
