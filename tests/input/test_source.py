"""Listings: order, what is a row, what is skipped; and reading that never raises or hangs."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from metaqap_fast.errors import Status, UsageError
from metaqap_fast.input import open_sources
from metaqap_fast.input.files import File, Listing
from metaqap_fast.input.reading import read_all, read_bytes
from metaqap_fast.records import Encoded, Entry, key_order


def keys(*sources: object) -> list[bytes]:
    return [entry.key for entry in Listing([str(source) for source in sources])]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a/z.png", "a.jpg", "a-b/x.TIFF", "a/sub/q.webp", "readme.md", "B.JPG"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def test_folder_is_listed_sorted_by_components(tree: Path) -> None:
    found = keys(tree)
    assert found == [b"B.JPG", b"a/sub/q.webp", b"a/z.png", b"a-b/x.TIFF", b"a.jpg", b"b.jpg"]
    assert found == sorted(found, key=key_order)


def test_files_without_an_image_extension_are_counted(tree: Path) -> None:
    listing = Listing([str(tree)])
    assert len(list(listing)) == 6
    assert listing.left_out == {"no image extension": 1}
    assert len(list(listing)) == 6 and listing.left_out == {"no image extension": 1}  # again: nothing is used up


def test_several_sources_keep_their_names_and_lose_duplicates(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    assert keys("a", "b.jpg", "a/sub") == [b"a/sub/q.webp", b"a/z.png", b"b.jpg"]


def test_named_files_are_rows_whatever_they_are(tree: Path) -> None:
    assert keys(tree / "readme.md") == [b"readme.md"]


@pytest.mark.parametrize("separator", [b"\n", b"\r\n", b"\0"])
def test_list_of_names(tree: Path, separator: bytes) -> None:
    names = [b"b.jpg", b"missing.jpg", b"a.jpg", b"a.jpg", b"caf\xe9.jpg"]
    (tree / "list.txt").write_bytes(separator.join(names) + separator)
    assert keys(f"@{tree}/list.txt") == [b"a.jpg", b"b.jpg", b"caf\xe9.jpg", b"missing.jpg"]


def test_list_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one.jpg\ntwo.jpg\n")))
    assert keys("@-") == [b"one.jpg", b"two.jpg"]


def test_glob(tree: Path) -> None:
    assert [os.path.basename(key) for key in keys(f"{tree}/**/*.png")] == [b"z.png"]


@pytest.mark.parametrize("source", ["missing", "missing/*.jpg", "@missing.txt"])
def test_sources_that_are_not_there(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="missing"):
        open_sources([source])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("s3:/bucket/photos", "no such file or folder: s3:/bucket/photos; a URL is written s3://bucket/photos"),
        ("S3://", "S3:// names nothing: a bucket, a server or a repository must follow"),
        ("https:///", "https:/// names nothing: a bucket, a server or a repository must follow"),
    ],
)
def test_urls_that_are_none(source: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        open_sources([source])
    assert str(error.value) == message


@pytest.mark.parametrize("name", ["1.jpg", "deep/1.jpg", "*.jpg", "{1,2}.jpg"])
def test_what_nobody_may_look_at_is_not_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    locked, stat = str(tmp_path / "locked"), os.stat

    def refusing(path: Any, **options: Any) -> os.stat_result:  # root may look everywhere
        if os.fsdecode(path).startswith(locked + "/"):
            raise PermissionError(13, "Permission denied")
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", refusing)
    with pytest.raises(UsageError, match=f"cannot look into {locked}.*: Permission denied"):
        open_sources([f"{locked}/{name}"])


def test_no_source() -> None:
    with pytest.raises(UsageError, match="no source"):
        open_sources([])


def test_link_loops_end(tree: Path) -> None:
    (tree / "a" / "loop").symlink_to(tree, target_is_directory=True)
    assert b"a/loop/b.jpg" not in keys(tree)
    assert b"a/z.png" in keys(tree)


def test_folder_that_cannot_be_listed_is_a_row(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def scandir(path: bytes) -> object:
        if path.endswith(b"/a"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert b"a" in keys(tree)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = b"caf\xe9.jpg"
    with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
        file.write(b"data")
    (entry,) = Listing([str(tmp_path)])
    assert entry.key == name
    assert read_bytes(entry).data == b"data"


def test_reading_never_raises_and_never_hangs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "dir.jpg").mkdir()
    (tmp_path / "dangling.jpg").symlink_to("nowhere")
    for name, word in [("fifo", "regular"), ("dir", "irectory"), ("dangling", "symbolic link"), ("missing", "No such")]:
        path = os.fsencode(tmp_path / f"{name}.jpg")
        results: list[Encoded] = []

        def read(entry: File = File(path, path), results: list[Encoded] = results) -> None:  # noqa: B008
            results.append(read_bytes(entry))

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        thread.join(20)  # one that hangs fails, and holds nobody up
        assert results, f"{name}: still reading"
        (result,) = results
        assert result.error is not None and result.error.status == Status.unreadable
        assert word in result.error.reason or "regular" in result.error.reason


def test_files_over_the_limit_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "big.jpg").write_bytes(bytes(1000))
    path = os.fsencode(tmp_path / "big.jpg")
    result = read_bytes(File(path, path), max_bytes=999)
    assert result.error is not None and result.error.status == Status.too_large and not result.data
    assert read_bytes(File(path, path), max_bytes=1000).error is None


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Keys of what `read_all` reads when its turn has come."""
    keys: list[bytes] = []
    real = read_bytes

    def noted(entry: Entry, max_bytes: int) -> Encoded:
        keys.append(entry.key)
        return real(entry, max_bytes)

    monkeypatch.setattr("metaqap_fast.input.reading.read_bytes", noted)
    return keys


def written(folder: Path, sizes: Sequence[int]) -> list[File]:
    entries = []
    for i, size in enumerate(sizes):
        (folder / f"{i}").write_bytes(bytes(size))
        entries.append(File(b"%d" % i, os.fsencode(folder / f"{i}")))
    return entries


def test_large_files_are_read_when_their_turn_has_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: list[bytes]
) -> None:
    monkeypatch.setattr("metaqap_fast.input.reading.AHEAD_BYTES", 100)
    sizes = [100, 101, 5000, 20, 5001, 0, 6000]
    for i, found in enumerate(read_all(written(tmp_path, sizes), max_bytes=5500)):
        assert len(found.data) == (sizes[i] if i < 6 else 0)
        assert late == [b"%d" % j for j in range(i + 1) if 100 < sizes[j] <= 5500]
        assert (found.error is not None) == (i == 6)


def test_what_is_read_ahead_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: list[bytes]) -> None:
    monkeypatch.setattr("metaqap_fast.input.reading.WAITING_BYTES", 250)
    monkeypatch.setattr("metaqap_fast.input.reading.READERS", 1)
    assert [len(found.data) for found in read_all(written(tmp_path, [100] * 10), ahead=5)] == [100] * 10
    assert late == [b"3", b"4", b"8", b"9"]  # of each five, which a thread reads together


def test_a_file_that_says_it_is_empty_is_read() -> None:
    path = b"/proc/self/status"
    assert os.stat(path).st_size == 0
    assert b"VmRSS" in read_bytes(File(path, path)).data


def test_read_all_keeps_the_order(tmp_path: Path) -> None:
    entries = []
    for i in range(100):
        (tmp_path / f"{i:03d}").write_bytes(b"%d" % i)
        path = os.fsencode(tmp_path / f"{i:03d}")
        entries.append(File(path, path))
    results: list[Encoded] = list(read_all(entries, ahead=7))
    assert [result.data for result in results] == [b"%d" % i for i in range(100)]
