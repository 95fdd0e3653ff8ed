"""Ray: the file that one machine makes, whatever becomes of workers; scores as columns of a dataset; clear errors."""

from __future__ import annotations

import io
import os
import socket
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import crash
import metaqap_fast
from command import run
from images import encode
from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.input.folders import File
from metaqap_fast.input.members import Options
from metaqap_fast.scale import cluster
from metaqap_fast.scale.pieces import Piece, PieceSource, pieces
from metaqap_fast.scores.table import ScoreTable
from ray_cluster import by_ray, killing_workers

ray = pytest.importorskip("ray", reason="NOT TESTED HERE: Ray is missing")


@pytest.fixture(scope="module")
def collection(photo: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files and two tars, some of them bad."""
    root = tmp_path_factory.mktemp("collection")
    (root / "files").mkdir()
    rng = np.random.default_rng(0)
    crops = [photo.crop((x, y, x + 64, y + 64)) for x, y in rng.integers(0, 400, (300, 2)).tolist()]
    for i, crop in enumerate(crops[:40]):
        crop.save(root / "files" / f"{i:03d}.png")
    (root / "files" / "bad.jpg").write_bytes(b"no image")
    for number in range(2):
        with tarfile.open(root / f"shard-{number}.tar", "w") as tar:
            for i, crop in enumerate(crops[40 + 130 * number : 170 + 130 * number]):
                data = encode(crop, "JPEG") if i % 50 else encode(crop, "JPEG")[:300]
                for name, content in ((f"{i:04d}.jpg", data), (f"{i:04d}.json", b"{}")):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return root


@pytest.fixture(scope="module")
def plain(collection: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plain") / "s.h5"
    assert run("score", collection, "--model", bundle, "-o", out, "--precision", "fp32").returncode == 0
    return out


@pytest.mark.full
def test_a_cluster_of_this_machine_alone(collection: Path, bundle: Path, tmp_path: Path, plain: Path) -> None:
    """By default Ray is started and ended; the file is that of one process; nothing is written to HOME, nor expected
    there."""
    (home := tmp_path / "home").mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    arguments = (collection, "--model", bundle, "-o", tmp_path / "s.h5", "--precision", "fp32", "--ray")
    result = run("score", *arguments, env=environment)
    assert result.returncode == 0, result.stderr
    assert crash.datasets(tmp_path / "s.h5") == crash.datasets(plain)
    assert "294 scored, 7 failed (6 corrupt, 1 unsupported)" in result.stderr
    assert "260 left out: member that is not an image" in result.stderr
    assert not list(home.iterdir()) and not list(tmp_path.glob("s.h5?*"))


@pytest.mark.full
def test_what_is_there_is_kept_and_what_changed_is_scored_again(
    head: str, collection: Path, bundle: Path, photo: Image.Image, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(6):
        photo.crop((i, 0, 64 + i, 64)).save(folder / f"{i}.png")
    arguments = (folder, "--model", bundle, "-o", tmp_path / "s.h5")
    assert run("score", *arguments, "--precision", "fp32").returncode == 0
    photo.crop((300, 300, 364, 364)).save(folder / "3.png")
    photo.crop((9, 0, 73, 64)).save(folder / "new.png")
    (folder / "0.png").unlink()
    result = by_ray(head, *arguments, "--resume", "--prune")
    assert result.returncode == 0, result.stderr
    assert (
        "4 rows kept from an earlier run" in result.stderr
        and "1 row scored again: the file has changed" in result.stderr
    )
    assert "1 row removed: the image is gone" in result.stderr
    assert run("score", folder, "--model", bundle, "-o", tmp_path / "w.h5", "--precision", "fp32").returncode == 0
    assert crash.datasets(tmp_path / "s.h5") == crash.datasets(tmp_path / "w.h5")


@pytest.mark.full
def test_a_worker_that_is_killed_costs_nothing(
    head: str, collection: Path, bundle: Path, plain: Path, tmp_path: Path
) -> None:
    with killing_workers(tmp_path / "s.h5.parts", after_parts=(2, 6)) as killed:
        result = by_ray(head, collection, "--model", bundle, "-o", tmp_path / "s.h5", "--rows-per-part", 10)
    assert result.returncode == 0, result.stderr
    assert len(set(killed)) == 2
    assert crash.datasets(tmp_path / "s.h5") == crash.datasets(plain)


@pytest.mark.full
def test_scores_are_columns_of_a_dataset(head: str, collection: Path, bundle: Path, plain: Path) -> None:
    score = metaqap_fast.ray.score
    wanted = ScoreTable.read(plain)
    of = dict(zip(wanted.paths, wanted, strict=True))
    ray.init(head, log_to_driver=False)
    try:
        images = ray.data.read_binary_files(str(collection / "files"), include_paths=True)
        images = images.map_batches(lambda block: {**block, "mine": np.arange(len(block["path"]))})
        found = score(images, model=str(bundle), precision="fp32", concurrency=1).take_all()
        assert len(found) == 41 and sorted(row["mine"] for row in found)[-1] > 0
        for row in found:
            one = of[f"files/{Path(row['path']).name}"]
            assert (row["status"], row["bytes"]) == (one.status.name, one.nbytes)
            assert row["score"] == one.score or (row["score"] is None and one.status)
        struct = pa.array(
            [{"bytes": (collection / "files" / "001.png").read_bytes(), "path": "x"}, {"bytes": None}, None]
        )
        table = pa.table({"image": struct, "name": ["a", "b", "c"]})
        kept = score(ray.data.from_arrow(table), "image", "name", keep_image=True, model=str(bundle), concurrency=1)
        rows = kept.take_all()
        assert [row["status"] for row in rows] == ["ok", "unreadable", "unreadable"]
        assert rows[0]["score"] == pytest.approx(of["files/001.png"].score, abs=0.01) and "null" in rows[2]["error"]
        assert rows[0]["image"]["bytes"] == struct[0]["bytes"].as_py() and rows[0]["bytes"] == len(
            rows[0]["image"]["bytes"]
        )
        with pytest.raises(UsageError, match=r"no column 'bytes'; it has image, name"):
            score(ray.data.from_arrow(table))
        clash = table.append_column("score", pa.array([1, 2, 3]))
        with pytest.raises(UsageError, match="rename or drop score"):
            score(ray.data.from_arrow(clash), "image", "name")
    finally:
        ray.shutdown()


@pytest.mark.full
def test_what_a_worker_cannot_do_is_one_line(
    head: str, collection: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = by_ray(head, collection, "--model", bundle, "-o", tmp_path / "s.h5", "--device", "cuda:0")
    assert result.returncode in (1, 2)
    assert result.stderr.startswith("metaqap-fast: a Ray worker: ") and result.stderr.count("\n") == 1
    source = cluster.Listing([collection])
    monkeypatch.setattr(cluster, "seen", lambda item: 7)  # as if it were another file here
    arguments: Any = (head, source, lambda entries: entries, tmp_path / "s.h5", "new", {"model": str(bundle)})
    with pytest.raises(UsageError, match=r"does not see files/000.png as this machine does: name a source by a path"):
        cluster.run_cluster(*arguments)
    monkeypatch.setattr(cluster, "__version__", "9.9")
    with pytest.raises(MetaqapError, match=r"has metaqap-fast .*, this machine 9.9"):
        cluster.run_cluster(*arguments)
    assert not list(tmp_path.iterdir())


def test_no_cluster_is_one_line(collection: Path, bundle: Path, tmp_path: Path, cli: Any, monkeypatch: Any) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        silent = f"127.0.0.1:{closed.getsockname()[1]}"
    for address, words in (
        (silent, "no Ray cluster answers at"),
        ("ray://127.0.0.1:10001", "is not the address of a Ray cluster"),
        ("somewhere", "is not the address of a Ray cluster"),
    ):
        result = cli("score", collection, "-o", tmp_path / "s.h5", "--ray", address)
        assert result.exit_code and words in result.stderr and result.stderr.count("\n") == 1
    monkeypatch.setitem(sys.modules, "ray", None)
    result = cli("score", collection, "-o", tmp_path / "s.h5", "--ray")
    assert result.exit_code == 1 and "pip install 'metaqap-fast[ray]'" in result.stderr
    result = cli("score", collection, "--ray", "auto", "--limit", "3")
    assert result.exit_code == 2 and "--ray and --limit cannot be given together" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_pieces_are_the_whole_source_once(collection: Path, workers: int) -> None:
    source = cluster.Listing([collection])
    work = pieces(source.items(), workers)
    found = [PieceSource(piece, source.options) for piece in work]
    keys = [entry.key for each in found for entry in each]
    assert sorted(keys) == sorted(entry.key for entry in source) and len(set(keys)) == len(keys)
    assert sum(each.left_out.get("member that is not an image", 0) for each in found) == 260
    assert len(work) >= 8 * workers


@pytest.mark.parametrize(("count", "workers", "sizes"), [(0, 2, []), (40, 2, [16, 16, 8]), (5, 9, [5])])
def test_pieces_of_few_files(count: int, workers: int, sizes: list[int]) -> None:
    assert [len(piece.items) for piece in pieces(files(count), workers)] == sizes


def test_pieces_of_files_shrink_so_that_workers_end_together() -> None:
    sizes = [len(piece.items) for piece in pieces(files(20_000), 2)]
    assert sum(sizes) == 20_000 and sizes[0] == 1024 and sizes[-4] == 16 and sizes == sorted(sizes, reverse=True)


def files(count: int) -> list[File]:
    return [File(os.fsencode(f"{i}.jpg"), b"") for i in range(count)]


def test_no_source_makes_no_work() -> None:
    assert pieces([], 4) == [] and list(PieceSource(Piece([]), Options())) == []
