"""Bytes by HTTP, hundreds of answers at once on one thread, by libcurl.

A thread that waits for each answer costs two to three times the processor time.
"""

from __future__ import annotations

import importlib
import os
import select
import threading
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from concurrent.futures import Future
from functools import cache
from typing import Any, NamedTuple

KEPT = 256  # connections that stay open
SILENCE = 20.0  # seconds without a byte
CONNECT = 5.0  # seconds to reach a server
WHOLE = 64 << 20  # bytes of a whole answer, at most
# libcurl's errors by what they mean.
MEANING = {
    "no connection": ("COULDNT_RESOLVE_PROXY", "COULDNT_RESOLVE_HOST", "COULDNT_CONNECT"),
    "no whole answer in time": ("OPERATION_TIMEDOUT",),
    "no connection: certificate": ("PEER_FAILED_VERIFICATION",),
    "the answer broke off": ("GOT_NOTHING", "SEND_ERROR", "RECV_ERROR", "PARTIAL_FILE", "HTTP2"),
    "the server sends more than was asked for": ("FILESIZE_EXCEEDED",),
}


class Range(NamedTuple):
    """What is asked for: bytes of what is at a URL, `start` before `stop`, or the whole answer if `stop` is 0."""

    url: str
    start: int = 0
    stop: int = 0
    headers: tuple[str, ...] = ()
    user: str = ""
    password: str = ""


class Refused(OSError):
    """An answer that is not the bytes: an HTTP status, and what came with it."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"the server answers {status}")
        self.status, self.body = status, body


class Client:
    """How one server is asked: options of libcurl, for all requests.

    Args:
        options: by their names in pycurl.
        seconds: for a whole answer.
    """

    def __init__(self, options: Mapping[str, Any], seconds: float) -> None:
        pycurl = importlib.import_module("pycurl")
        common = {
            "NOSIGNAL": 1,
            "HTTP_VERSION": pycurl.CURL_HTTP_VERSION_1_1,  # each answer on a connection of its own
            "MAXAGE_CONN": 60,  # servers close idle connections
            "CONNECTTIMEOUT_MS": int(1000 * CONNECT),
            "LOW_SPEED_LIMIT": 1,
            "LOW_SPEED_TIME": int(SILENCE),
            "TIMEOUT_MS": int(1000 * seconds),
            "USERAGENT": "metaqap-fast",
            **options,
        }
        self._options = [(getattr(pycurl, name), value) for name, value in common.items()]

    def handle(self) -> Any:
        """A handle of libcurl with the options."""
        handle = importlib.import_module("pycurl").Curl()
        for option, value in self._options:
            handle.setopt(option, value)
        handle.told = None  # headers, user and password of its last request
        return handle

    def get(self, asked: Range) -> Future[bytes]:
        """The bytes, all of them, or an OSError: of these `Refused` says what the server has answered. Never waits."""
        return _loop(os.getpid()).start(self, asked)


class _Loop:
    """A thread that drives all transfers of this process."""

    def __init__(self) -> None:
        curl = self._curl = importlib.import_module("pycurl")
        self._multi = curl.CurlMulti()
        self._multi.setopt(curl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(curl.M_TIMERFUNCTION, self._time)
        self._multi.setopt(curl.M_MAXCONNECTS, KEPT)
        self._epoll, self._wake = select.epoll(), os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._watched: set[int] = set()
        self._due = float("inf")
        self._new: deque[tuple[Client, Range, Future[bytes]]] = deque()
        self._sleeping = False
        self._idle: defaultdict[Client, list[Any]] = defaultdict(list)
        self._reasons = {getattr(curl, f"E_{name}"): why for why, names in MEANING.items() for name in names}
        threading.Thread(target=self._run, name="transfers", daemon=True).start()

    def start(self, client: Client, asked: Range) -> Future[bytes]:
        future: Future[bytes] = Future()
        self._new.append((client, asked, future))
        if self._sleeping:
            os.eventfd_write(self._wake, 1)
        return future

    def _watch(self, what: int, fd: int, *_: Any) -> None:
        curl = self._curl
        if what == curl.POLL_REMOVE:
            if fd in self._watched:
                self._watched.discard(fd)
                self._epoll.unregister(fd)
            return
        mask = (select.EPOLLIN if what & curl.POLL_IN else 0) | (select.EPOLLOUT if what & curl.POLL_OUT else 0)
        (self._epoll.modify if fd in self._watched else self._epoll.register)(fd, mask)
        self._watched.add(fd)

    def _time(self, milliseconds: int) -> None:
        self._due = float("inf") if milliseconds < 0 else time.monotonic() + milliseconds / 1000

    def _run(self) -> None:
        curl = self._curl
        while True:
            self._sleeping = True
            wait = 0 if self._new else max(0.0, self._due - time.monotonic())
            events = self._epoll.poll(None if wait == float("inf") else wait)
            self._sleeping = False
            while self._new:
                self._begin(*self._new.popleft())
            for fd, event in events:
                if fd == self._wake:
                    os.eventfd_read(fd)
                    continue
                bits = curl.CSELECT_IN if event & ~select.EPOLLOUT else 0
                self._multi.socket_action(fd, bits | (curl.CSELECT_OUT if event & select.EPOLLOUT else 0))
            if time.monotonic() >= self._due:
                self._due = float("inf")
                self._multi.socket_action(curl.SOCKET_TIMEOUT, 0)
            more = 1
            while more:
                more, done, failed = self._multi.info_read()
                for handle in done:
                    self._end(handle, 0, "")
                for handle, code, message in failed:
                    self._end(handle, code, message)

    def _begin(self, client: Client, asked: Range, future: Future[bytes]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        curl = self._curl
        idle = self._idle[client]
        handle = idle.pop() if idle else client.handle()
        handle.client, handle.asked, handle.future, handle.body = client, asked, future, []
        handle.setopt(curl.URL, asked.url)
        if asked.stop:
            handle.setopt(curl.RANGE, f"{asked.start}-{asked.stop - 1}")
        else:
            handle.unsetopt(curl.RANGE)
        handle.setopt(curl.MAXFILESIZE_LARGE, (asked.stop or WHOLE) + (1 << 16))  # of an error, what it says
        handle.setopt(curl.WRITEFUNCTION, handle.body.append)
        if handle.told != (told := asked[3:]):
            handle.told = told
            handle.setopt(curl.HTTPHEADER, asked.headers)
            if asked.user:
                handle.setopt(curl.USERNAME, asked.user)
                handle.setopt(curl.PASSWORD, asked.password)
        self._multi.add_handle(handle)

    def _end(self, handle: Any, code: int, message: str) -> None:
        self._multi.remove_handle(handle)
        future, asked, body, status = handle.future, handle.asked, handle.body, handle.getinfo(self._curl.RESPONSE_CODE)
        self._idle[handle.client].append(handle)
        handle.body = handle.future = None
        if code:
            why = self._reasons.get(code, message)
            if code == self._curl.E_OPERATION_TIMEDOUT and not handle.getinfo(self._curl.PRETRANSFER_TIME):
                why = "no connection"
            future.set_exception(OSError(f"{why}: {message}" if why.startswith("no connection") else why))
            return
        found = body[0] if len(body) == 1 else b"".join(body)
        if status not in (200, 206):
            future.set_exception(Refused(status, found))
            return
        if not asked.stop:
            future.set_result(found)
            return
        if status == 200:  # of a server that does not know ranges
            found = found[asked.start : asked.stop]
        if len(found) == asked.stop - asked.start:
            future.set_result(found)
        else:
            future.set_exception(OSError(f"{len(found)} bytes came instead of {asked.stop - asked.start}"))


@cache
def _loop(process: int) -> _Loop:
    return _Loop()
