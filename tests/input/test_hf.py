"""Data sets of a Hugging Face hub: huggingface_hub against a hub on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from archives import FILES, STORED, as_parquet, as_tar, scored_alike
from archives import found as rows
from hub import TOKEN, Hub, hub
from images import encode
from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.input import blocks, fetch, open_sources

pytestmark = pytest.mark.full  # huggingface_hub takes a second to import
DATA = "hf://datasets/someone/photos"


@pytest.fixture(scope="module")
def started() -> Iterator[Hub]:
    with hub() as server:
        yield server


@pytest.fixture
def server(started: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, by a setting of fsspec: HF_ENDPOINT is read only once, when huggingface_hub is imported."""
    import fsspec
    from huggingface_hub import HfFileSystem

    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": started.url})
    monkeypatch.setattr(fetch, "PAUSE", 0.001)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    HfFileSystem.clear_instance_cache()
    fetch._unanswered.clear()
    fetch._reached.clear()
    started.repositories.update({"someone/photos": dict(STORED), "private/photos": dict(STORED)})
    started.refused.clear()
    started.requests.clear()
    yield started
    HfFileSystem.clear_instance_cache()


def test_every_kind_of_source(server: Hub) -> None:
    assert rows(f"{DATA}/photos") == FILES
    assert rows(f"{DATA}@main/photos/0/003.jpg") == {"003.jpg": FILES["0/003.jpg"]}
    for name in ("a.tar", "b.zip", "d.tgz", "c.parquet"):
        expected = {f"{name}/{member}": data for member, data in FILES.items()}
        assert rows(f"{DATA}/shards/{name}", key="name" if name == "c.parquet" else "") == expected
    source = open_sources([f"{DATA}/photos"])
    stamps = [entry.stamp() for entry in source]
    assert source.left_out == {".git": 1, "._ file": 1, "no image extension": 1}
    assert all(stamp.size >= 4 and len(stamp.version) == 40 for stamp in stamps)  # the hash of its content


def test_no_byte_comes_twice(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsspec would read 5 MB more than it is asked for, with every block."""
    monkeypatch.setattr(blocks, "BLOCK", 5000)
    assert len(rows(f"{DATA}/shards/a.tar")) == len(FILES)
    ranges = [asked for _, path, asked in server.requests if path.endswith("a.tar") and asked]
    size = len(STORED["shards/a.tar"])
    assert sorted(ranges, key=lambda text: int(text[6:].split("-")[0])) == [
        f"bytes={start}-{min(start + 5000, size) - 1}" for start in range(0, size, 5000)
    ]


def test_private_and_gated(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    private = "hf://datasets/private/photos/photos"
    with pytest.raises(UsageError, match=f"no permission to read {private}"):
        open_sources([private])
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    from huggingface_hub import HfFileSystem

    HfFileSystem.clear_instance_cache()
    assert rows(private) == FILES
    server.refused["/tree/"] = 403
    HfFileSystem.clear_instance_cache()
    with pytest.raises((UsageError, MetaqapError), match=r"(no permission to read|cannot list) hf://datasets/someone"):
        list(open_sources([f"{DATA}/photos"]))


def test_what_is_not_there_or_refused_is_a_row(server: Hub, tmp_path: Path) -> None:
    for name in (
        f"{DATA}/none.jpg",
        f"{DATA}/none",
        "hf://datasets/nobody/nothing",
        "hf://datasets/nobody/nothing/a.tar",
    ):
        with pytest.raises(UsageError, match=f"nothing is there: {name}"):
            open_sources([name])
    del server.repositories["someone/photos"]["photos/1/001.jpg"]
    server.refused["photos/1/004.jpg"] = 403
    (tmp_path / "list.txt").write_text("\n".join(f"{DATA}/photos/1/{i:03d}.jpg" for i in (1, 4, 7)))
    found = rows(f"@{tmp_path}/list.txt")
    assert found["001.jpg"] == "no such file" and found["007.jpg"] == FILES["1/007.jpg"]
    assert isinstance(found["004.jpg"], str) and "\n" not in found["004.jpg"]
    asked = [path for _, path, asked in server.requests if path.endswith("resolve/main/photos/1/004.jpg")]
    assert len(asked) == 1  # asking again would not help


def test_the_same_scores_as_from_a_disk(
    server: Hub, bundle: Path, tmp_path: Path, photo: Image.Image, cli: Callable[..., Any]
) -> None:
    files = {f"{i:02d}.png": encode(photo.crop((i, i, i + 80, i + 80)), "PNG") for i in range(12)}
    stored = {f"run/{name}": data for name, data in files.items()}
    server.repositories["someone/photos"].update({**stored, "run.tar": as_tar(files), "run.parquet": as_parquet(files)})
    for name, data in files.items():
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_bytes(data)
    sources = (tmp_path / "run", f"{DATA}/run", f"{DATA}/run.tar", f"{DATA}/run.parquet")
    scored_alike(cli, sources, bundle, tmp_path, files)
