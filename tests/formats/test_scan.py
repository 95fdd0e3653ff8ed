"""What is seen of a JPEG's scan in C is what Python sees, whatever the bytes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import corpus
import sanitized
from metaqap_fast.errors import ImageError
from metaqap_fast.formats import Header, read_header, scan
from metaqap_fast.formats.scan import Scan, by_python

SOURCE = Path(__file__).parents[2] / "kernels" / "jpeg" / "scan.c"
PIECES = [
    *(bytes([0xFF] * fill + [code]) for fill in (1, 2, 3) for code in (0, 1, 0xCF, 0xD0, 0xD1, 0xD7, 0xD8, 0xD9, 0xFE)),
    *(bytes(count) for count in (1, 7, 62, 63, 64, 65, 127)),
    *(bytes([each]) * count for each in (0xFF, 0xD0, 1) for count in (1, 5, 63, 64)),
]
DATA = st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join)


@pytest.fixture(scope="module")
def by_c() -> Callable[[memoryview, int, bool], Scan]:
    found = scan.compiled()
    if found is None:
        pytest.skip("there is no compiled scan of JPEGs (formats/_scan.so): it is not compared with Python's")
    return found


@given(data=DATA, at=st.integers(0, 70), restarts=st.booleans())
@settings(max_examples=400, deadline=None)
def test_c_and_python_see_the_same(
    by_c: Callable[[memoryview, int, bool], Scan], data: bytes, at: int, restarts: bool
) -> None:
    view = memoryview(b"\xff\xd8" + data)
    assert by_c(view, at, restarts) == by_python(view, at, restarts)


@pytest.mark.parametrize("length", [0, 1, 62, 63, 64, 65, 200])
@pytest.mark.parametrize("zeros", [63, 64, 65])
def test_a_run_of_zeros_anywhere(by_c: Callable[[memoryview, int, bool], Scan], length: int, zeros: int) -> None:
    for place in range(length + 1):
        data = memoryview(b"\1" * place + bytes(zeros) + b"\1" * (length - place))
        assert by_c(data, 0, False) == by_python(data, 0, False) == Scan(None, True, zeros >= 64)


@cache
def jpegs() -> list[bytes]:
    """Sequential, progressive and with restart markers; of light and of inks."""
    options = ({}, {"progressive": True}, {"restart_marker_blocks": 2}, {"progressive": True, "restart_marker_rows": 1})
    picture = corpus.IMAGE.resize((72, 56))
    found = [corpus.encode(picture, "JPEG", quality=75, **option) for option in options]
    return [*found, corpus.encode(picture.convert("CMYK"), "JPEG", quality=75)]


PLACES = st.floats(0, 1, exclude_max=True)
CHANGES = st.lists(
    st.tuples(st.sampled_from(["set", "cut", "put", "end"]), PLACES, st.sampled_from(PIECES)), max_size=4
)


def changed(data: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    """A file with bytes replaced, left out or put in between, or cut short."""
    for kind, place, piece in changes:
        at = int(place * len(data))
        behind = {"set": at + len(piece), "cut": at + len(piece), "put": at, "end": len(data)}[kind]
        data = data[:at] + (piece if kind in ("set", "put") else b"") + data[behind:]
    return data


def verdict(data: bytes) -> Header | tuple[object, str]:
    try:
        return read_header(data)
    except ImageError as error:
        return error.status, error.reason


@given(which=st.integers(0, 4), changes=CHANGES)
@example(which=0, changes=[("put", 0.9, bytes(64))])
@example(which=2, changes=[("set", 0.8, b"\xff\xd1")])
@settings(max_examples=300, deadline=None)
def test_a_changed_file_gets_the_same_verdict(
    by_c: Callable[[memoryview, int, bool], Scan], which: int, changes: list[tuple[str, float, bytes]]
) -> None:
    data = changed(jpegs()[which], changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "compiled", lambda: by_c)
        compiled = verdict(data)
        patch.setattr(scan, "compiled", lambda: None)
        assert compiled == verdict(data)


@pytest.mark.parametrize("content", [None, b"not a library"])
def test_an_installation_without_it(content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "__file__", str(tmp_path / "scan.py"))
    if content is not None:
        (tmp_path / "_scan.so").write_bytes(content)
    scan.compiled.cache_clear()
    try:
        assert scan.compiled() is None and not read_header(corpus.JPEG).defect
    finally:
        scan.compiled.cache_clear()


CASES = """
import sys
from metaqap_fast.formats import scan
from hypothesis import given, settings
import test_scan
scan.__file__ = sys.argv[1]  # beside the library
by_c = scan.compiled()
@settings(max_examples=2000, deadline=None, database=None)
@given(data=test_scan.DATA, at=test_scan.st.integers(0, 70), restarts=test_scan.st.booleans())
def check(data, at, restarts):
    view = memoryview(b"a" + data)
    alone = memoryview(bytearray(view))  # a block of its own, so that a byte beyond it is found
    assert by_c(alone, at, restarts) == scan.by_python(view, at, restarts)
check()
print("ran")
"""


@pytest.mark.full
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    sanitized.check(SOURCE, tmp_path / "_scan.so", CASES, Path(__file__).parent)
