"""Bytes by libcurl: whole or an error, many at once, and signed as S3 wants it."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from metaqap_fast.input.objects import reason
from metaqap_fast.input.transfers import Client, Range, Refused

DATA = bytes(range(256)) * 40


class Answers(BaseHTTPRequestHandler):
    """What the path says."""

    protocol_version = "HTTP/1.1"
    asked: list[BaseHTTPRequestHandler]

    def do_GET(self) -> None:
        self.server.asked.append(self)  # type: ignore[attr-defined]
        kind = self.path.strip("/")
        first, last = map(int, re.findall(r"\d+", self.headers["Range"] or "bytes=0-0"))
        body, status, length = DATA[first : last + 1], 206, None
        if kind == "slow":
            time.sleep(1)
        elif kind == "wait":
            time.sleep(0.05)
        elif kind in ("whole", "endless"):
            body, status = DATA if kind == "whole" else DATA * 100, 200
        elif kind == "short":
            body = body[:-1]
        elif kind == "cut":
            length, body = len(body), body[:-1]
        elif kind.isdigit():
            body, status = b"<Error><Code>Why</Code></Error>", int(kind)
        self.send_response(status)
        self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(body)
        self.close_connection = kind == "cut"

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    ThreadingHTTPServer.request_queue_size = 200
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.asked = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def url(server: Any, path: str) -> str:
    return f"http://127.0.0.1:{server.server_port}/{path}"


@pytest.mark.parametrize("kind", ["ranges", "whole"])
def test_the_bytes_that_were_asked_for(server: Any, kind: str) -> None:
    client = Client({}, 10)
    for start, stop in ((0, 1), (0, len(DATA)), (1, 300), (1000, len(DATA))):
        assert client.get(Range(url(server, kind), start, stop)).result() == DATA[start:stop]


def test_a_whole_answer(server: Any) -> None:
    client = Client({}, 10)
    for _ in range(2):  # a handle is used again
        assert client.get(Range(url(server, "whole"), 1, 9)).result() == DATA[1:9]
        assert client.get(Range(url(server, "whole"))).result() == DATA
    assert isinstance(client.get(Range(url(server, "500"))).exception(20), Refused)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("short", "99 bytes came instead of 100"),
        ("cut", "the answer broke off"),
        ("slow", "no whole answer in time"),
        ("endless", "the server sends more than was asked for"),
        ("500", "the server answers 500, Why"),
    ],
)
def test_anything_else_is_an_error(server: Any, kind: str, why: str) -> None:
    client = Client({}, 0.5 if kind == "slow" else 20)
    for _ in range(2):  # a handle is used again
        error = client.get(Range(url(server, kind), 0, 100)).exception(20)
        assert isinstance(error, OSError) and str(reason(error)) == why
    assert client.get(Range(url(server, "ranges"), 0, 100)).result() == DATA[:100]


def test_what_a_refusal_means(server: Any) -> None:
    for status, kind in ((404, FileNotFoundError), (401, PermissionError), (403, PermissionError), (416, OSError)):
        error = Client({}, 5).get(Range(url(server, str(status)), 0, 100)).exception(20)
        assert isinstance(error, Refused) and type(reason(error)) is kind


def test_nobody_is_there() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        there = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        assert str(Client({}, 5).get(Range(there, 0, 1)).exception(5)).startswith("no connection")


def test_hundreds_wait_at_once_on_one_thread(server: Any) -> None:
    client, before = Client({}, 30), threading.active_count()
    start, last = time.monotonic(), 0.0
    coming: list[Future[bytes]] = [client.get(Range(url(server, "wait"), i, i + 50)) for i in range(150)]
    handles = {thread.name for thread in threading.enumerate() if thread.name == "transfers"}
    assert [each.result(20) for each in coming] == [DATA[i : i + 50] for i in range(150)]
    last = time.monotonic() - start
    assert len(handles) == 1 and before > 0 and last < 150 * 0.05


@pytest.mark.parametrize("token", ["", "to/ken="])
def test_signed_as_botocore_would(server: Any, token: str) -> None:
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    headers = ("x-amz-request-payer: requester", *((f"x-amz-security-token: {token}",) if token else ()))
    client = Client({"AWS_SIGV4": "aws:amz:eu-west-1:s3"}, 5)
    for path in (
        "b/ranges",
        "b/a%20b%2Bc%26d%3De.jpg",
        "b/100%25.jpg",
        "b/a%2520b",
        "b/d//e",
        "b/%C3%BC%09~*'",
        "b/x%23",
        "b/?delimiter=%2F&encoding-type=url&list-type=2&prefix=a%20b%2F~%2B",
    ):
        server.asked.clear()
        assert client.get(Range(url(server, path), 3, 9, headers, "KEY", "se/cret+")).result() == DATA[3:9]
        (asked,) = server.asked
        assert asked.path == f"/{path}"
        scope, signed, signature = re.findall(
            r"(?:Credential|SignedHeaders|Signature)=([^, ]+)", asked.headers["Authorization"]
        )
        names = signed.split(";")
        assert {name.partition(":")[0] for name in headers} | {"host", "x-amz-date"} <= set(names)
        request = AWSRequest("GET", url(server, path), headers={name: asked.headers[name] for name in names})
        request.context["timestamp"] = asked.headers["x-amz-date"]
        auth = S3SigV4Auth(Credentials("KEY", "se/cret+", token or None), "s3", "eu-west-1")
        assert scope == auth.scope(request)
        text = auth.string_to_sign(request, auth.canonical_request(request))
        assert signature == auth.signature(text, request)
