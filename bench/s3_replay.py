"""What an S3 server has answered once, again from memory: thousands of answers a second, each after a wait.

moto's server, in Python, answers some 400 requests a second. A benchmark of what reads from a bucket would measure it.
Questions and answers are moto's, and so are all bytes; only who repeats them is fast.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from urllib.parse import urlsplit


class Replay:
    """A server on this machine, in a thread of its own, from `with` to its end.

    Args:
        url: of the server that answers what has not been asked before.
        latency: seconds before each answer.
    """

    def __init__(self, url: str, latency: float) -> None:
        self._there, self._latency = urlsplit(url), latency
        self._answers: dict[bytes, bytes] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.url = ""

    def __enter__(self) -> Replay:
        self._thread.start()
        port = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        self.url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _start(self) -> int:
        server = await self._loop.create_server(lambda: _Connection(self._ask), "127.0.0.1", 0, backlog=512)
        return int(server.sockets[0].getsockname()[1])

    def _ask(self, question: bytes, give: Callable[[bytes], None]) -> None:
        """Give the answer to a whole request, later."""
        asked = _asked(question)
        if asked in self._answers:
            self._loop.call_later(self._latency, give, self._answers[asked])
            return

        def keep(coming: asyncio.Future[bytes]) -> None:
            answer = coming.result()
            if answer.split(b" ", 2)[1] in (b"200", b"206"):
                self._answers[asked] = answer
            self._loop.call_later(self._latency, give, answer)

        self._loop.run_in_executor(None, self._answer, question).add_done_callback(keep)

    def _answer(self, question: bytes) -> bytes:
        """The server's, which closes each connection; the answer does not say so, as connections to here stay."""
        found = []
        with socket.create_connection((self._there.hostname, self._there.port)) as connection:
            connection.sendall(question)
            while some := connection.recv(1 << 20):
                found.append(some)
        return b"".join(found).replace(b"\r\nConnection: close\r\n", b"\r\n", 1)


class _Connection(asyncio.Protocol):
    """Requests without a body, one after the other: whoever writes asks the server itself."""

    def __init__(self, ask: Callable[[bytes, Callable[[bytes], None]], None]) -> None:
        self._ask, self._come = ask, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._come += data
        while b"\r\n\r\n" in self._come:
            question, _, self._come = self._come.partition(b"\r\n\r\n")
            self._ask(question + b"\r\n\r\n", self._transport.write)


def _header(head: bytes, name: bytes) -> bytes:
    for line in head.split(b"\r\n")[1:]:
        found, _, value = line.partition(b":")
        if found.strip().lower() == name:
            return value.strip()
    return b""


def _asked(question: bytes) -> bytes:
    """What makes two requests the same: not who asks, and when."""
    head = question.partition(b"\r\n\r\n")[0]
    return head.partition(b" HTTP/")[0] + b"\n" + _header(head, b"range")
