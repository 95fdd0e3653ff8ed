"""Files read together are what they are when each is read alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import sanitized
from metaqap_fast.errors import ImageError
from metaqap_fast.input import local, reading
from metaqap_fast.input.folders import File
from metaqap_fast.input.local import read_files
from metaqap_fast.records import Encoded, Stamp

SOURCE = Path(__file__).parents[2] / "kernels" / "files" / "read.c"
CONTENTS = {b"one": b"a", b"page": bytes(4096), b"more": b"x" * 70_001, b"empty": b""}


@pytest.fixture(autouse=True)
def _compiled() -> None:
    if local.compiled() is None:
        pytest.skip("there is no compiled reading of files (input/_files.so): nothing is read together")


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before


@pytest.fixture
def paths(tmp_path: Path) -> list[bytes]:
    """Files, and what is none: a folder, a FIFO, a device, a loop of links, nothing; a name that is not UTF-8."""
    folder = os.fsencode(tmp_path)
    for name, content in CONTENTS.items():
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(content)
    os.link(folder + b"/more", folder + b"/\xff")
    (tmp_path / "link").symlink_to("more")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(folder + b"/fifo")
    names = [*CONTENTS, b"\xff", b"link", b"loop", b"fifo", b"missing", b".", b"one\0more", b"one/more"]
    return [*(folder + b"/" + name for name in names), b"/dev/null", b"/proc/self/stat"]


def alone(path: bytes) -> tuple[bytes, Stamp] | None:
    file = File(b"key", path)
    try:
        data = file.read(1 << 30, 1 << 30)
    except (OSError, ValueError, ImageError):
        return None
    return (data, file.stamp()) if data and file.stamp().size else None  # of the rest nobody knows the size


def test_the_same_bytes_and_stamps(paths: list[bytes]) -> None:
    files = read_files(paths, lambda nbytes: True)
    assert [file and (bytes(file.data), file.stamp) for file in files] == [alone(path) for path in paths]
    assert sum(file is not None for file in files) == 5


def test_only_what_is_wanted(paths: list[bytes]) -> None:
    asked: list[int] = []

    def small(nbytes: int) -> bool:
        asked.append(nbytes)
        return nbytes < 5000

    files = read_files(paths, small)
    assert [len(file.data) for file in files if file] == [1, 4096]
    assert asked == [1, 4096, 70_001, 70_001, 70_001]


def test_an_error_leaves_no_file_open(paths: list[bytes]) -> None:
    def refuse(nbytes: int) -> bool:
        raise MemoryError

    with pytest.raises(MemoryError):
        read_files(paths, refuse)


def test_a_file_that_gets_shorter_meanwhile_is_not_easy(paths: list[bytes]) -> None:
    def cut(nbytes: int) -> bool:
        os.truncate(paths[2], 7)
        return True

    (file,) = read_files(paths[2:3], cut)
    assert file is None


def test_a_file_that_grows_meanwhile_is_what_it_was(paths: list[bytes]) -> None:
    def add(nbytes: int) -> bool:
        with Path(os.fsdecode(paths[0])).open("ab") as file:
            file.write(b"more")
        return True

    (file,) = read_files(paths[:1], add)
    assert file is not None and bytes(file.data) == b"a" and file.stamp.size == 1


@pytest.mark.parametrize("content", [None, b"not a library"])
def test_an_installation_without_it(
    content: bytes | None, paths: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "__file__", str(tmp_path / "local.py"))
    if content is not None:
        (tmp_path / "_files.so").write_bytes(content)
    local.compiled.cache_clear()
    try:
        assert local.compiled() is None and read_files(paths, lambda nbytes: True) == [None] * len(paths)
    finally:
        local.compiled.cache_clear()


def outcomes(paths: list[bytes], **limits: int) -> list[tuple[bytes, bytes, str]]:
    entries = [File(b"%d" % i, path) for i, path in enumerate(paths)]
    return [(one.key, bytes(one.data), str(one.error)) for one in reading.read_all(entries, **limits)]


@pytest.mark.parametrize("waiting", [1, 100_000, 256 << 20])
@pytest.mark.parametrize("ahead_bytes", [1, 5000, 1 << 24])
def test_read_all_gives_what_reading_alone_gives(
    waiting: int, ahead_bytes: int, paths: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [path for path in paths if b"\0" not in path and not path.startswith(b"/proc")] * 3
    monkeypatch.setattr(reading, "WAITING_BYTES", waiting)
    monkeypatch.setattr(reading, "AHEAD_BYTES", ahead_bytes)
    together = outcomes(paths, max_bytes=70_000), outcomes(paths)
    monkeypatch.setattr(reading, "read_files", lambda paths, is_wanted: [None] * len(paths))
    assert together == (outcomes(paths, max_bytes=70_000), outcomes(paths))


def test_whoever_asked_is_told_what_was_seen(paths: list[bytes]) -> None:
    stamps: list[Stamp] = []

    class Asking(File):
        def told(self, stamp: Stamp) -> None:
            stamps.append(stamp)

    entries = [Asking(b"key", path) for path in paths[:3]]
    assert [type(one) for one in reading.read_all(entries)] == [Encoded] * 3
    assert stamps == [entry.stamp() for entry in entries]


CASES = """
import sys, os
from metaqap_fast.input import local
local.__file__ = sys.argv[1]
folder = os.path.dirname(sys.argv[1]).encode()
paths = []
for i in range(40):
    path = b"%s/%d" % (folder, i)
    with open(path, "wb") as file:
        file.write(bytes([i]) * (i * 97))
    paths.append(path)
for some in ([], paths[:1], [b"/", *paths, b"/dev/null", b"/nowhere", b"a\\0b"]):
    for is_wanted in (lambda nbytes: True, lambda nbytes: False, lambda nbytes: nbytes % 2):
        for path, file in zip(some, local.read_files(some, is_wanted)):
            assert file is None or bytes(file.data) == open(path, "rb").read()
assert local.compiled() is not None
print("ran")
"""


@pytest.mark.full
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    sanitized.check(SOURCE, tmp_path / "_files.so", CASES, Path(__file__).parent)
