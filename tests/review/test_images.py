"""Where images are now."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from metaqap_fast.errors import UsageError
from metaqap_fast.input import open_sources
from metaqap_fast.input.reading import read_bytes
from metaqap_fast.review.images import Images, from_here


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "b").mkdir(parents=True)
    (folder / "b/1.jpg").write_bytes(b"one")
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for name in ("2.jpg", "3.jpg"):
            tar.add(folder / "b/1.jpg", name)
    return folder


def test_places(photos: Path) -> None:
    images = Images({"root": f"file://{photos}"})
    root = str(photos).encode()
    (entry,) = (entry for entry in open_sources([photos]) if entry.key == b"b/1.jpg")
    keys = (b"b/1.jpg", b"b", b"c.jpg", b"shard.tar/2.jpg", b"../x", b"s3://b/x")
    assert {key: images.place(key).why for key in keys} == {
        b"b/1.jpg": "",
        b"b": "not a file",
        b"c.jpg": "not there any more",
        b"shard.tar/2.jpg": "inside an archive",
        b"../x": "its name is not a path in the folder of the images",
        b"s3://b/x": "not on this machine",
    }
    assert images.place(b"b/1.jpg", entry.stamp().code).why == ""
    assert images.place(b"b/1.jpg", 1).why == "changed since it was scored"
    assert images.place(root + b"/b/1.jpg").path == root + b"/b/1.jpg"  # a key that is a whole path


def test_entries_of_files_and_of_archives(photos: Path) -> None:
    keys = [entry.key for entry in open_sources([photos])]
    assert keys == [b"b/1.jpg", b"shard.tar/2.jpg", b"shard.tar/3.jpg"]
    entries = Images({"root": f"file://{photos}"}).entries([b"gone", *keys])
    found = {entry.key: bytes(read_bytes(entry).data) for entry in entries}
    assert found == dict.fromkeys(keys, b"one")


def test_a_root_that_has_moved(photos: Path, tmp_path: Path) -> None:
    moved = photos.rename(tmp_path / "elsewhere")
    old = {"root": f"file://{photos}"}
    assert Images(old).place(b"b/1.jpg").why == "not there any more"
    assert Images(old, moved).place(b"b/1.jpg").why == ""
    with pytest.raises(UsageError, match="no such folder"):
        Images(old, tmp_path / "none")
    with pytest.raises(UsageError, match="give --images"):
        Images({})


def test_paths_from_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    here = str(tmp_path).encode()
    assert [from_here(path) for path in (here + b"/a/b", here, b"/else/x")] == [b"a/b", here, b"/else/x"]
