"""Buckets: an S3 server over HTTP on this machine, with latency, and with answers that fail, break off or are slow."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from archives import FILES, STORED, as_tar
from archives import found as rows
from buckets import serving
from images import encode
from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.input import fetch, open_sources
from metaqap_fast.input.reading import read_all
from metaqap_fast.scores.table import ScoreTable

pytestmark = pytest.mark.full  # the server takes seconds to import
BUCKET = "s3://data"


@pytest.fixture(scope="module")
def started() -> Iterator[Any]:
    with serving(STORED) as server:
        yield server


@pytest.fixture
def server(started: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(fetch, "PAUSE", 0.001)
    fetch._unanswered.clear()
    fetch._reached.clear()
    yield started
    started.faults.clear()
    started.latency = 0.0
    started.requests.clear()


def test_every_kind_of_source(server: Any) -> None:
    assert rows(f"{BUCKET}/photos") == FILES
    assert rows(f"{BUCKET}/photos/*/*.jpg") == FILES
    for name in ("a.tar", "b.zip", "d.tgz", "c.parquet"):
        expected = {f"{name}/{member}": data for member, data in FILES.items()}
        assert rows(f"{BUCKET}/shards/{name}", key="name" if name == "c.parquet" else "") == expected
    source = open_sources([f"{BUCKET}/photos/"])
    list(source)
    assert source.root == "s3://data/photos" and source.roots == ["s3://data/photos/"]
    assert source.left_out == {".git": 1, "._ file": 1, "no image extension": 1}
    (entry,) = open_sources([f"{BUCKET}/photos/0/003.jpg"])
    assert entry.stamp().size == len(FILES["0/003.jpg"]) and len(entry.stamp().version) == 32  # its etag


def test_latency_is_hidden(server: Any) -> None:
    server.latency = 0.2
    server.requests.clear()
    list(read_all(open_sources([f"{BUCKET}/shards/a.tar"])))
    assert len(server.requests) <= 3  # a look, and the few bytes that it has
    server.most = 0
    assert len(rows(f"{BUCKET}/photos")) == 60
    assert server.most > 10  # at once, however slow this machine is


@pytest.mark.parametrize(
    ("path", "kind"),
    [("photos/1/001.jpg", "500"), ("photos/1/001.jpg", "cut"), ("shards/a.tar", "503"), ("shards/a.tar", "reset")],
)
def test_answers_that_fail_are_asked_for_again(server: Any, kind: Any, path: str) -> None:
    from metaqap_fast.bench.s3_server import Fault

    source, expected = (f"{BUCKET}/photos", FILES) if "jpg" in path else (f"{BUCKET}/{path}", None)
    server.faults[:] = [Fault(path, kind, 3)]
    found = rows(source)
    assert not server.faults[0].times
    assert found == (expected or {f"a.tar/{name}": data for name, data in FILES.items()})


@pytest.mark.parametrize("kind", ["500", "reset", "cut", "403", "slow"])
def test_what_never_comes_is_one_row(server: Any, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from metaqap_fast.bench.s3_server import Fault

    monkeypatch.setattr(fetch, "TRIES", 2)
    monkeypatch.setattr(fetch, "SECONDS", 1.0)
    server.slow = 5.0
    server.faults[:] = [Fault("photos/1/001.jpg", kind, 1000)]
    found = rows(f"{BUCKET}/photos")
    why = found.pop("1/001.jpg")
    assert isinstance(why, str) and why and "\n" not in why
    assert found == {name: data for name, data in FILES.items() if name != "1/001.jpg"}


def test_an_archive_that_never_comes_is_one_row(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from metaqap_fast.bench.s3_server import Fault

    monkeypatch.setattr(fetch, "TRIES", 2)
    server.faults[:] = [Fault("shards/b.zip", "cut", 1000)]
    found = rows(f"{BUCKET}/shards")
    assert str(found["b.zip"]).endswith("the answer broke off")
    assert sum(isinstance(value, bytes) for value in found.values()) == 180


def test_what_is_not_there_or_not_ours(server: Any) -> None:
    from metaqap_fast.bench.s3_server import Fault

    for name in (f"{BUCKET}/none.jpg", f"{BUCKET}/none/", "s3://no-such-bucket", "s3://no-such-bucket/a.tar"):
        with pytest.raises(UsageError, match=f"nothing is there: {name}"):
            open_sources([name])
    server.faults[:] = [Fault("/data", "403", 1000)]
    for name in (BUCKET, f"{BUCKET}/shards/a.tar"):
        with pytest.raises((UsageError, MetaqapError), match=r"(no permission to read|cannot list) s3://data"):
            list(open_sources([name]))


def test_a_run_over_a_bucket(
    server: Any,
    bundle: Path,
    tmp_path: Path,
    photo: Image.Image,
    cli: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same scores under corresponding keys as from a disk, and a run that the network ends goes on."""
    from metaqap_fast.bench.s3_server import Fault, put

    files = {f"{i:02d}.png": encode(photo.crop((i, i, i + 80, i + 80)), "PNG") for i in range(30)}
    put({**{f"run/{name}": data for name, data in files.items()}, "run.tar": as_tar(files)})
    folder = tmp_path / "run"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    tables = []
    for source in (folder, f"{BUCKET}/run", f"{BUCKET}/run.tar"):
        out = tmp_path / f"{len(tables)}.h5"
        result = cli("score", source, "--model", bundle, "-o", out, "--quiet")
        assert result.exit_code == 0, result.output
        tables.append(ScoreTable.read(out))
    assert tables[0].keys == tables[1].keys == [key.removeprefix(b"run.tar/") for key in tables[2].keys]
    assert tables[0].ok.all()
    for table in tables[1:]:
        assert table.score.tobytes() == tables[0].score.tobytes()
    assert tables[1].attributes["root"] == "s3://data/run"

    monkeypatch.setattr(fetch, "TRIES", 2)
    monkeypatch.setattr(fetch, "LOST", 3)
    out = tmp_path / "lost.h5"
    server.faults[:] = [Fault("run/", "reset", 10_000)]
    result = cli("score", f"{BUCKET}/run", "--model", bundle, "-o", out, "--quiet")
    assert result.exit_code == 1 and "connection is lost" in result.output
    server.faults.clear()
    result = cli("score", f"{BUCKET}/run", "--model", bundle, "-o", out, "--quiet", "--resume", "--retry-failed")
    assert result.exit_code == 0, result.output
    assert ScoreTable.read(out).score.tobytes() == tables[0].score.tobytes()
    assert os.environ["AWS_ENDPOINT_URL"]
