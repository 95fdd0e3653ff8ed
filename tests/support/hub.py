"""A Hugging Face hub on this machine: what HfFileSystem asks for; some repositories want a token."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

PAGE = 25  # entries of a listing that come at once
TOKEN = "hf_of_the_test"


class Hub(ThreadingHTTPServer):
    """`files` of every data set, by name; `requests` so far: method, path and range; `refused`: paths -> status."""

    daemon_threads = True
    request_queue_size = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.refused: dict[str, int] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        path, query = unquote(split.path), parse_qs(split.query)
        self.server.requests.append((self.command, path, self.headers.get("Range", "")))
        for part, status in self.server.refused.items():
            if part in path:
                self._error(status, "GatedRepo" if status == 403 else "")
                return
        found = re.fullmatch(r"(/api)?/datasets/([^/]+/[^/]+)(?:/(revision|tree|resolve)/main(?:/(.*))?)?", path)
        files = self.server.repositories.get(found[2]) if found else None
        if found is None or files is None or (found[2].startswith("private/") and not self._known()):
            self._error(401 if found and found[2].startswith("private/") else 404, "RepoNotFound")
        elif found[3] == "tree":
            self._tree(files, found[4] or "", int(query.get("cursor", ["0"])[0]))
        elif found[3] == "resolve":
            self._bytes(files.get(found[4]))
        else:
            self._send(200, json.dumps({"id": found[2], "sha": "0" * 40, "private": False, "tags": []}).encode())

    do_HEAD = do_GET

    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _tree(self, files: dict[str, bytes], folder: str, start: int) -> None:
        prefix = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, Any]] = {}
        for name in sorted(files):
            if name.startswith(prefix):
                first, below, _ = name[len(prefix) :].partition("/")
                oid = hashlib.sha1(b"" if below else files[name]).hexdigest()
                kind, size = ("directory", 0) if below else ("file", len(files[name]))
                entries[first] = {"type": kind, "oid": oid, "size": size, "path": prefix + first}
        if not entries:
            self._error(404, "EntryNotFound")
            return
        more = {}
        if start + PAGE < len(entries):
            there = f"{self.server.url}{self.path.partition('?')[0]}?cursor={start + PAGE}"
            more = {"Link": f'<{there}>; rel="next"'}
        self._send(200, json.dumps(list(entries.values())[start : start + PAGE]).encode(), more)

    def _bytes(self, content: bytes | None) -> None:
        if content is None:
            self._error(404, "EntryNotFound")
            return
        if asked := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            first, last = int(asked[1]), min(int(asked[2]), len(content) - 1)
            there = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
            self._send(206, content[first : last + 1], there)
        else:
            self._send(200, content)

    def _error(self, status: int, code: str) -> None:
        self._send(
            status, b'{"error": "refused"}', {"X-Error-Code": code, "X-Error-Message": "refused"} if code else {}
        )

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Length": str(len(body)),
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            with suppress(OSError):
                self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def hub() -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()
