"""Sources behind URLs: keys without credentials, blocks that come late or never, what is said when nothing comes."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archives import FILES, JPEG, STORED
from archives import found as rows
from metaqap_fast.errors import MetaqapError, Status, UsageError
from metaqap_fast.input import blocks, distant, fetch, open_sources
from metaqap_fast.input.places import plain
from metaqap_fast.input.reading import read_all
from metaqap_fast.records import Stamp


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "PAUSE", 0.001)
    fetch._unanswered.clear()
    fetch._reached.clear()


@pytest.fixture
def memory() -> Iterator[str]:
    files = fsspec.filesystem("memory")
    for name, content in STORED.items():
        files.pipe(f"/data/{name}", content)
    yield "memory://data"
    files.rm("/data", recursive=True)


def test_a_folder_behind_a_url_is_a_folder(memory: str, tmp_path: Path) -> None:
    for name, content in STORED.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    there, here = open_sources([memory]), open_sources([tmp_path])
    assert [entry.key for entry in there] == [entry.key for entry in here]
    assert there.left_out == here.left_out
    assert rows(f"{memory}/photos") == rows(f"{memory}/photos".replace("memory", "Memory")) == FILES
    assert rows(f"{memory}/photos", f"{memory}/photos/1/", f"{memory}/photos/0/*.jpg") == FILES
    assert rows(f"{memory}/photos/{{0,1}}") == {name: data for name, data in FILES.items() if name[0] != "2"}


@pytest.mark.parametrize("name", ["a.tar", "b.zip", "d.tgz", "c.parquet"])
def test_archives_behind_a_url(memory: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 5000)
    expected = {f"{name}/{member}": data for member, data in FILES.items()}
    assert rows(f"{memory}/shards/{name}", key="name" if name == "c.parquet" else "") == expected


def test_lists_behind_a_url_and_of_urls(memory: str, tmp_path: Path) -> None:
    expected = {"photos/0/000.jpg": FILES["0/000.jpg"], "photos/gone.jpg": "no such file"}
    expected |= {f"shards/a.tar/{name}": data for name, data in FILES.items()}
    assert rows(f"@{memory}/list.txt") == expected
    (tmp_path / "list.txt").write_bytes(STORED["list.txt"])
    assert rows(f"@{tmp_path}/list.txt") == expected


def test_a_disk_and_a_bucket_have_no_folder_in_common(memory: str, tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(JPEG)
    source = open_sources([f"{memory}/photos/0/000.jpg", tmp_path])
    assert source.root == ""
    assert {entry.key for entry in source} == {b"memory:///data/photos/0/000.jpg", os.fsencode(tmp_path / "1.jpg")}
    again = open_sources([f"{memory}/photos", tmp_path], root="memory:///data")
    assert {entry.key[:7] for entry in again} == {b"photos/", os.fsencode(tmp_path)[:7]}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("memory://nothing/here", "nothing is there: memory://nothing/here"),
        ("memory://data/photos/*.gif", "no file matches memory://data/photos/"),
        ("nope://host/path", "cannot read nope://host/path: Protocol not known: nope"),
        ("github://x", "cannot read github://x: GithubFileSystem.__init__() missing"),
        ("dir://x", "cannot read dir://x: "),
        ("@memory://data/none.txt", "nothing is there: memory://data/none.txt"),
        ("memory://data/list.txt", "memory://data/list.txt is not an image; if it is a list of images, write @memory"),
    ],
)
def test_what_is_not_there(memory: str, source: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        open_sources([source])
    assert str(error.value).startswith(message)


def test_what_the_extra_does_not_bring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paramiko", None)
    with pytest.raises(MetaqapError, match=r"^ssh://a/b needs more packages: .*paramiko") as error:
        open_sources(["ssh://a/b"])
    assert "metaqap-fast[remote]" not in str(error.value)


def test_without_fsspec_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MetaqapError, match=r"pip install 'metaqap-fast\[remote\]'"):
        open_sources(["s3://bucket/photos"])


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://KEY:SECRET@bucket/a@b/c.jpg", "s3://bucket/a@b/c.jpg"),
        ("HTTPS://me:pw@host:8080/x.tar", "https://host:8080/x.tar"),
        ("https://h/a.jpg?X-Amz-Signature=1&id=5&X-Amz-Date=2#top", "https://h/a.jpg?id=5"),
        ("https://h/a.jpg?sv=1&sig=2&se=3", "https://h/a.jpg"),
        ("https://h/a.jpg?token=1", "https://h/a.jpg"),
        ("https://h/a.jpg?size=3&sort=1", "https://h/a.jpg?size=3&sort=1"),
        ("hf://datasets/org/name@main/data/a.parquet", "hf://datasets/org/name@main/data/a.parquet"),
        ("s3://bucket/what?.jpg", "s3://bucket/what?.jpg"),
    ],
)
def test_urls_without_credentials(url: str, expected: str) -> None:
    assert plain(url.encode()) == expected.encode() == plain(expected.encode())


# --- a web server -----------------------------------------------------------------------------------------


class Web(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    ranges = True

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name = self.path.split("?")[0].lstrip("/")
        if "secret" not in self.path or name not in STORED:
            self.send_response(403 if name in STORED else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body, asked = STORED[name], self.headers.get("Range")
        self.send_response(206 if asked and self.ranges else 200)
        if asked and self.ranges:
            first, last = asked.removeprefix("bytes=").split("-")
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(body)}")
            body = body[int(first) : int(last or len(body)) + 1]
        if self.ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Web) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_web_server(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 20_000)
    for name in ("a.tar", "b.zip"):
        source = open_sources([f"{web}/shards/{name}?token=secret"])
        assert source.roots == source.sources == [f"{web}/shards/{name}"] and source.root == f"{web}/shards"
        assert rows(f"{web}/shards/{name}?token=secret") == {f"{name}/{key}": data for key, data in FILES.items()}
    assert rows(f"{web}/photos/0/000.jpg?token=secret") == {"000.jpg": FILES["0/000.jpg"]}
    with pytest.raises(UsageError, match=r"nothing is there: http://127[^ ]*/none.jpg$"):
        open_sources([f"{web}/none.jpg?token=secret"])
    with pytest.raises((UsageError, MetaqapError), match=r"(no permission to|cannot) read http://127[^ ]*/a.tar: "):
        open_sources([f"{web}/shards/a.tar?token=wrong"])


def test_a_web_server_without_ranges(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Web, "ranges", False)
    assert rows(f"{web}/photos/1/001.jpg?token=secret") == {"001.jpg": FILES["1/001.jpg"]}
    assert len(rows(f"{web}/shards/a.tar?token=secret")) == 60
    monkeypatch.setattr(blocks, "BLOCK", 20_000)
    (row,) = rows(f"{web}/shards/a.tar?token=secret").items()
    assert row[0] == "a.tar" and "bytes came instead of 20000" in str(row[1])


# --- blocks and tries -------------------------------------------------------------------------------------

CONTENT = np.random.default_rng(2).bytes(50_000)


@given(st.lists(st.tuples(st.integers(0, 51_000), st.integers(0, 20_000)), max_size=20), st.integers(900, 30_000))
def test_any_bytes_by_blocks(reads: list[tuple[int, int]], most: int) -> None:
    asked: list[int] = []

    def get(start: int, stop: int) -> bytes:
        asked.append(stop - start)
        return CONTENT[start:stop]

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(3) as pool:
        patch.setattr(blocks, "BLOCK", 1000)
        patch.setattr(blocks, "CACHE", cache := blocks.Cache(most))
        data = blocks.Blocks(get, len(CONTENT), Stamp(), pool)
        for offset, length in reads:
            assert data.read(offset, length) == CONTENT[offset : offset + length]
            assert cache._held == sum(size for _, size in cache._blocks.values()) <= max(most, 1000)
    assert all(0 < size <= 1000 for size in asked)


def test_a_block_that_failed_is_asked_for_again() -> None:
    answers = iter([OSError("lost"), b"abc"])

    def get(start: int, stop: int) -> bytes:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with ThreadPoolExecutor(1) as pool:
        data = blocks.Blocks(get, 3, Stamp(), pool)
        with pytest.raises(OSError, match="lost"):
            data.read(0, 3)
        assert data.read(0, 3) == b"abc"


class Files:
    """A file system of which the first answers fail."""

    protocol = ("s3", "s3a")

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.asked = list(errors), 0

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return CONTENT[start:end]


def test_it_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files(*[OSError("reset")] * 4)
    assert fetch.fetch(files, "x", 5, 10) == CONTENT[5:10] and files.asked == 5
    files = Files(*[OSError("reset")] * 5)
    with pytest.raises(OSError, match="reset"):
        fetch.fetch(files, "x", 5, 10)
    for error in (FileNotFoundError("x"), PermissionError("no"), ValueError("Unable to locate credentials")):
        files = Files(error)
        with pytest.raises((FileNotFoundError, PermissionError)):
            fetch.fetch(files, "x", 5, 10)
        assert files.asked == 1  # it would not help
    files = Files()
    with pytest.raises(OSError, match="5 bytes came instead of 20"):
        fetch.fetch(files, "x", len(CONTENT) - 5, len(CONTENT) + 15)


def test_the_first_question_is_not_asked_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "PATIENCE", 0.0)
    files = Files(OSError("reset"), OSError("reset"))
    with pytest.raises(OSError, match="reset"):
        fetch.fetch(files, "x", 5, 10)
    assert files.asked == 1
    files.errors.clear()
    assert fetch.fetch(files, "x", 5, 10) == CONTENT[5:10]
    files.errors[:] = [OSError("reset")] * 4  # a server that has answered before is asked as often as promised
    assert fetch.fetch(files, "x", 5, 10) == CONTENT[5:10] and files.asked == 7


def test_a_lost_connection_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files(*[OSError("unreachable")] * 1000)
    entries = [distant.RemoteFile(b"%d" % i, files, "x", 5, "") for i in range(200)]
    with pytest.raises(MetaqapError, match=r"connection is lost: 20 requests to s3 .* --resume .* unreachable"):
        list(read_all(entries))
    files = Files(*[OSError("once")] * 5)
    found = list(read_all([distant.RemoteFile(b"%d" % i, files, "x", 5, "") for i in range(50)]))
    assert sum(each.error is not None for each in found) <= 1


def test_many_are_on_the_way_at_once() -> None:
    together = threading.Barrier(40, timeout=20)

    class Slow(Files):
        def cat_file(self, path: str, start: int, end: int) -> bytes:
            together.wait()
            return CONTENT[start:end]

    entries = [distant.RemoteFile(b"%d" % i, Slow(), "x", 5, "") for i in range(80)]
    assert [each.error for each in read_all(entries, ahead=32)] == [None] * 80


def test_an_error_tells_no_secret() -> None:
    told = fetch.line(ValueError("403, url='https://h/a.tar?X-Amz-Signature=abc&x=1'\nmore"))
    assert told == "403, url='https://h/a.tar' more"
    assert Status.unreadable
