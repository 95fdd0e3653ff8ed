"""An S3 server on this machine, moto's, with what networks have: latency, and answers that do not come or not whole."""

from __future__ import annotations

import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass
class Fault:
    """What goes wrong with the next `times` GET requests whose path holds `path`."""

    path: str
    kind: Literal["500", "503", "reset", "cut", "slow", "403"]
    times: int = 1


class Request(NamedTuple):
    """What was asked: by which library, and with whose key for which region, both empty if it is not signed."""

    method: str
    path: str
    agent: str
    key: str
    region: str


@dataclass
class Server:
    """The server, from `with` to its end; use it with `environment`.

    latency: seconds before each answer. faults: see `Fault`; may be changed at any time. requests: each one so far.
    """

    latency: float = 0.0
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    slow: float = 30.0  # seconds in the middle of a slow body
    waiting: int = 0  # requests that have no answer yet
    most: int = 0  # of them at once

    def __enter__(self) -> Server:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            protocol_version = "HTTP/1.1"  # connections are kept

            def log(self, type: str, message: str, *args: Any) -> None:
                pass

            def connection_dropped(self, error: BaseException, environ: Any = None) -> None:
                pass

        self._app = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet)
        self._server.daemon_threads = True  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which S3 is this server."""
        url = f"http://127.0.0.1:{self._server.server_port}"
        return {**ENVIRONMENT, "AWS_ENDPOINT_URL": url, "FSSPEC_S3_ENDPOINT_URL": url}

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        self.requests.append(_request(environ))
        with self._lock:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
        time.sleep(self.latency)
        with self._lock:
            self.waiting -= 1
        fault = self._fault(path) if environ["REQUEST_METHOD"] in ("GET", "HEAD") else None
        if fault in ("500", "503", "403"):
            start(f"{fault} failed", [("Content-Length", "0")])
            return [b""]
        if fault == "reset":
            _reset(environ)
            raise ConnectionResetError
        body = self._app(environ, start)
        return body if fault is None else self._damaged(fault, body, environ)

    def _fault(self, path: str) -> str | None:
        with self._lock:
            for fault in self.faults:
                if fault.path in path and fault.times > 0:
                    fault.times -= 1
                    return fault.kind
        return None

    def _damaged(self, fault: str, body: Iterable[bytes], environ: dict[str, Any]) -> Iterator[bytes]:
        whole = b"".join(body)
        if fault == "slow":
            yield whole[: len(whole) // 2]
            time.sleep(self.slow)
            yield whole[len(whole) // 2 :]
            return
        yield whole[: len(whole) // 2]
        _reset(environ)
        raise ConnectionResetError


def _request(environ: dict[str, Any]) -> Request:
    scope = re.search(r"Credential=([^/]+)/\d+/([^/]+)", environ.get("HTTP_AUTHORIZATION", ""))
    key, region = scope.groups() if scope else ("", "")
    return Request(environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("HTTP_USER_AGENT", ""), key, region)


def _reset(environ: dict[str, Any]) -> None:
    """End the connection without a word."""
    connection: socket.socket = environ["werkzeug.socket"]
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)


def put(files: dict[str, bytes], bucket: str = "data", url: str = "") -> None:
    """Objects into a bucket of a server, that of the environment if there is no URL."""
    import botocore.session

    client = botocore.session.get_session().create_client("s3", endpoint_url=url or os.environ["AWS_ENDPOINT_URL"])
    client.create_bucket(Bucket=bucket)
    for name, content in files.items():
        client.put_object(Bucket=bucket, Key=name, Body=content)
    client.close()


def main() -> None:
    """A server in a process of its own, behind a `Replay`, until its standard input ends; says the URLs of both.

    Argument: the latency.
    """
    import sys

    from metaqap_fast.bench.s3_replay import Replay

    with Server() as server, Replay(server.environment["AWS_ENDPOINT_URL"], float(sys.argv[1])) as replay:
        print(server.environment["AWS_ENDPOINT_URL"], replay.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
