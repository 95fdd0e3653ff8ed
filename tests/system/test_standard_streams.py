"""The standard streams as files: what is written is all there, an error, or dropped; and text that does not act."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from metaqap_fast import streams
from metaqap_fast.errors import MetaqapError
from metaqap_fast.streams import Progress, Results, counted, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ä 漢字 😀.jpg", "plain ä 漢字 😀.jpg"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("two\nlines\r\t\x7f", "two\\nlines\\r\\t\\x7f"),
        ("\x9b0m\u2028\u202etxt.exe", "\\x9b0m\\u2028\\u202etxt.exe"),
        (os.fsdecode(b"\xff\x80.png"), "\\xff\\x80.png"),
        ("\ud83d", "\\ud83d"),
    ],
)
def test_shown(text: str, expected: str) -> None:
    assert shown(text) == expected


def test_what_is_kept_is_shown_as_it_is() -> None:
    assert shown("a\n\tb\x1b\r", keep="\n\t") == "a\n\tb\\x1b\\r"


def test_counted() -> None:
    assert [counted(n, "file") for n in (0, 1, 2, 12345)] == ["0 files", "1 file", "2 files", "12,345 files"]


@pytest.mark.parametrize("kind", [Results, Progress])
def test_all_that_can_be_written_is(kind: type[Results] | type[Progress], tmp_path: Path) -> None:
    with kind(tmp_path / "out", "w") as file:
        assert file.write(b"abc") == 3 and file.write(memoryview(b"")) == 0
        assert file.write(memoryview(bytearray(b"xy")).cast("H")) == 2  # bytes count, not items
    assert (tmp_path / "out").read_bytes() == b"abcxy"


@pytest.mark.parametrize("kind", [Results, Progress])
@pytest.mark.parametrize("blocking", [True, False])
def test_a_write_of_more_than_a_pipe_holds(kind: type[Results] | type[Progress], blocking: bool) -> None:
    read, write = os.pipe()
    os.set_blocking(write, blocking)
    data, got = os.urandom(1 << 20), bytearray()

    def slowly() -> None:
        with open(read, "rb", buffering=0) as pipe:
            while more := pipe.read(50_000):
                got.extend(more)

    reader = threading.Thread(target=slowly)
    reader.start()
    with kind(write, "w") as file:
        assert file.write(data) == len(data)
    reader.join()
    if kind is Results or blocking:
        assert bytes(got) == data
    else:  # what is not taken now is dropped
        assert data.startswith(bytes(got)) and got


def test_results_that_are_lost() -> None:
    with Results("/dev/full", "w") as file:
        with pytest.raises(MetaqapError, match=r"^cannot write to standard output: No space left on device$"):
            file.write(b"a")
        assert file.lost and file.write(b"rest") == 4  # what Python flushes at its end


def test_progress_that_is_lost() -> None:
    with Progress("/dev/full", "w") as file:
        assert file.write(b"abc") == 3


def test_streams_that_somebody_has_put_in_place_are_left(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdin, sys.stdout, sys.stderr
    streams.guard()
    assert (sys.stdin, sys.stdout, sys.stderr) == before


def test_what_the_locale_cannot_show_is_escaped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And lines are out when they are written, not when a buffer is full."""
    with open(tmp_path / "1", "w", encoding="ascii") as one, open(tmp_path / "2", "w", encoding="utf-8") as two:
        monkeypatch.setattr(sys, "stdout", one)
        monkeypatch.setattr(sys, "__stdout__", one)
        monkeypatch.setattr(sys, "stderr", two)
        monkeypatch.setattr(sys, "__stderr__", two)
        descriptors = os.dup(1), os.dup(2)
        try:
            os.dup2(one.fileno(), 1)
            os.dup2(two.fileno(), 2)
            streams.guard()
            assert (sys.stdout.encoding, sys.stderr.encoding) == ("ascii", "utf-8")
            for stream in (sys.stdout, sys.stderr):
                print("ä \udc80", file=stream)
            found = (tmp_path / "1").read_bytes(), (tmp_path / "2").read_bytes()
        finally:
            for number, old in zip((1, 2), descriptors, strict=True):
                os.dup2(old, number)
                os.close(old)
    assert found == (b"\\xe4 \\udc80\n", "ä \\udc80\n".encode())
