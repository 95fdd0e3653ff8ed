"""One listing: entries in their order, their number before they are all used, errors where they belong."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import ClassVar

import pytest

from metaqap_fast.errors import UsageError
from metaqap_fast.input import ahead, open_sources, reading
from metaqap_fast.input.ahead import Ahead
from metaqap_fast.input.files import File
from metaqap_fast.records import Stamp


class Toy:
    """A source of what it is given; an exception among it is raised."""

    sources, roots, root = ("toy",), ("file:///toy",), "file:///"
    left_out: ClassVar = {"hidden folder": 3}

    def __init__(self, *entries: object) -> None:
        self.entries, self.listed = entries, 0

    def __iter__(self) -> Iterator[object]:
        for entry in self.entries:
            if isinstance(entry, Exception):
                raise entry
            self.listed += 1
            yield entry


class Member:
    """An entry that is no file of its own."""

    kept = 0

    def __init__(self, key: bytes) -> None:
        self.key = key


class Asked:
    """A distant entry whose bytes come without a thread; if they do not, a thread reads it."""

    distant, kept = True, 0

    def __init__(self, number: int) -> None:
        self.key, self.read_by = b"%d" % number, ""
        self.fails, self.size = number % 3 == 0, 10 * number

    def stamp(self) -> Stamp:
        return Stamp(self.size)

    def ask(self, ahead_bytes: int) -> Future[bytes] | None:
        if self.size > ahead_bytes:
            return None
        coming = Future[bytes]()
        if self.fails:
            coming.set_exception(OSError("gone"))
        else:
            threading.Timer(0.001, coming.set_result, [bytes(self.size)]).start()
        return coming

    def read(self, max_bytes: int, ahead_bytes: int) -> bytes | None:
        if self.size > ahead_bytes:
            return None
        self.read_by = threading.current_thread().name
        if self.key == b"3":
            raise OSError("nowhere")
        return bytes(self.size)


def wait_until_complete(listed: Ahead) -> None:
    deadline = time.monotonic() + 20
    while not listed.complete and time.monotonic() < deadline:
        time.sleep(0.005)


@pytest.mark.parametrize("count", [1, 2, 999, 5000])
def test_entries_and_their_number(count: int) -> None:
    files = [File(b"%d" % i, b"/folder/\xff%d" % i) for i in range(count)]
    members = [Member(b"%d" % i) for i in range(count)]
    for entries in (files, members, [*files, *members]):
        listed = Ahead(Toy(*entries))  # type: ignore[arg-type]
        listed.check()
        wait_until_complete(listed)
        assert (listed.total, listed.sources, listed.left_out) == (len(entries), ("toy",), {"hidden folder": 3})
        assert (listed.roots, listed.root) == (("file:///toy",), "file:///")
        assert list(listed) == entries


def test_a_tree_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(30):
        (tmp_path / f"{i % 3}").mkdir(exist_ok=True)
        (tmp_path / f"{i % 3}" / f"{i}.jpg").touch()
    calls: list[object] = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: calls.append(path) or real(path))
    listed = Ahead(open_sources([tmp_path]))
    listed.check()
    found = list(listed)
    assert found == list(open_sources([tmp_path])) and listed.total == 30
    assert len(calls) == 2 * 4  # once here, once for what it is compared with


def test_the_first_entry_comes_before_the_rest_is_listed() -> None:
    go = threading.Event()

    class Slow(Toy):
        def __iter__(self) -> Iterator[object]:
            yield File(b"a", b"a")
            go.wait(20)
            yield File(b"b", b"b")

    listed = Ahead(Slow())  # type: ignore[arg-type]
    listed.check()
    entries = iter(listed)
    assert next(entries).key == b"a" and listed.total is None
    go.set()
    assert [entry.key for entry in entries] == [b"b"] and listed.total == 2


def test_no_entry_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"no image found in toy; left out: hidden folder \(3\)$"):
        Ahead(Toy()).check()  # type: ignore[arg-type]


def test_an_error_comes_where_it_happened() -> None:
    with pytest.raises(UsageError, match="broken"):
        Ahead(Toy(UsageError("broken"))).check()  # type: ignore[arg-type]
    listed = Ahead(Toy(File(b"a", b"a"), UsageError("broken")))  # type: ignore[arg-type]
    wait_until_complete(listed)
    listed.check()
    entries = iter(listed)
    assert next(entries).key == b"a"
    with pytest.raises(UsageError, match="broken"):
        next(entries)


@pytest.mark.parametrize("kind", [File, lambda key, path: Member(key)])
def test_little_is_held(kind: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "FILES_AHEAD", 3000)
    monkeypatch.setattr(ahead, "OTHERS_AHEAD", 3000)
    toy = Toy(*(kind(b"%d" % i, b"%d" % i) for i in range(20_000)))  # type: ignore[operator]
    listed = Ahead(toy)  # type: ignore[arg-type]
    for i, entry in enumerate(listed):
        assert entry.key == b"%d" % i
        assert toy.listed - i <= 3000 + 2 * ahead.BLOCK
    assert i == 19_999


def test_it_can_be_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "FILES_AHEAD", 10)

    class Endless(Toy):
        def __iter__(self) -> Iterator[object]:
            return (File(b"%d" % i, b"") for i in itertools.count())

    listed = Ahead(Endless())  # type: ignore[arg-type]
    listed.check()
    listed.close()
    wait_until_complete(listed)
    assert listed.complete


def test_bytes_that_come_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "AHEAD_BYTES", 200)
    monkeypatch.setattr(reading, "WAITING_BYTES", 1500)
    entries = [Asked(number) for number in range(30)]
    found = list(reading.read_all(entries))  # type: ignore[arg-type]
    assert [each.key for each in found] == [entry.key for entry in entries]
    assert [len(each.data) for each in found] == [0 if entry.key == b"3" else entry.size for entry in entries]
    assert found[3].error is not None and found[3].error.reason == "nowhere"
    assert all(entry.read_by for entry in entries if entry.fails or entry.size > 200)
    assert not any(entry.read_by for entry in entries[:10] if not entry.fails)
