"""A parquet file for each shard, as img2dataset lays them out."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import quick
from metaqap_fast.errors import UsageError
from metaqap_fast.scores import export as exports
from metaqap_fast.scores.sidecars import export_like
from metaqap_fast.scores.table import ScoreTable
from quick import files
from rows import ATTRIBUTES, a_row

Cli = Callable[..., Any]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[bytes]:
    monkeypatch.chdir(tmp_path)
    return quick.use(monkeypatch)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards of img2dataset with captions beside them, one in a folder, and a photograph that is in none."""
    source = files(tmp_path / "source", **{f"{i:09d}": str(i) for i in range(5)}, **{"000000005.v2": "bad"})
    folder = tmp_path / "shards"
    for name in ("00000", "00001", "more/00002"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            for path in sorted(source.iterdir()):
                tar.add(path, path.name)
        captions = pa.table({"key": ["000000000"], "caption": ["a photograph"]})
        pq.write_table(captions, folder / f"{name}.parquet")
    files(folder, alone="alone")
    return folder


@pytest.mark.parametrize("rows", [2, 4, 1000])
def test_a_file_for_each_shard(
    cli: Cli, asked: list[bytes], shards: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """Whatever pieces the score file is read in; `key` is the sample's, by which captions and scores are joined."""
    monkeypatch.setattr(exports, "ROWS", rows)
    cli("score", "shards")
    result = cli("export", "scores.h5", "out", "--like", "shards")
    assert result.exit_code == 0 and result.stderr == "18 rows written to 3 files in out\n"
    found = sorted(str(path.relative_to("out")) for path in Path("out").rglob("*") if path.is_file())
    assert found == ["00000.parquet", "00001.parquet", "more/00002.parquet"]
    for name in found:
        assert rows < 1000 or pq.ParquetFile(Path("out") / name).num_row_groups == 1  # no piece is cut further
        table = pq.read_table(Path("out") / name)
        assert table.column_names[:3] == ["key", "path", "score"]
        assert table.column("key").to_pylist() == [f"{i:09d}" for i in range(6)]
        assert table.schema.field("score").type == pa.float32() and table.column("score").null_count == 1
        assert table.column("status").to_pylist() == ["ok"] * 5 + ["corrupt"]
        captions = pq.read_table(shards / name).join(table, "key")
        assert captions.num_rows == 1 and captions.column("score").to_pylist()[0] > 0


@pytest.mark.parametrize(
    ("like", "expected"),
    [
        ("shards/{00000..00001}.tar", ["00000.parquet", "00001.parquet"]),
        ("shards/*.tar", ["00000.parquet", "00001.parquet"]),
        ("shards/*/*.tar", ["more/00002.parquet"]),
        ("shards/mo*", ["more/00002.parquet"]),
        ("shards/{00001.tar,more}", ["00001.parquet", "more/00002.parquet"]),
    ],
)
def test_shards_are_named_as_sources_are(
    cli: Cli, asked: list[bytes], shards: Path, like: str, expected: list[str]
) -> None:
    cli("score", "shards")
    result = cli("export", "scores.h5", "out", "--like", like)
    assert result.exit_code == 0, result.stderr
    assert sorted(str(path.relative_to("out")) for path in Path("out").rglob("*.parquet")) == expected


@pytest.mark.parametrize("ending", ["tar.bz2", "tbz2", "tar.xz", "txz", "tgz"])
def test_every_kind_of_archive_is_a_shard(cli: Cli, asked: list[bytes], shards: Path, ending: str) -> None:
    compression = {"b": "w:bz2", "x": "w:xz", "g": "w:gz"}[ending.removeprefix("tar.").removeprefix("t")[0]]
    with tarfile.open(f"x.{ending}", compression) as tar:  # type: ignore[call-overload]
        tar.add("source/000000001.jpg", "1.jpg")
    assert cli("score", f"x.{ending}").exit_code == 0
    assert cli("export", "scores.h5", "out", "--like", f"x.{ending}").exit_code == 0
    assert [path.name for path in Path("out").iterdir()] == ["x.parquet"]


def test_one_shard_and_one_of_several_folders(cli: Cli, asked: list[bytes], shards: Path) -> None:
    cli("score", "shards")
    assert cli("export", "scores.h5", "one", "--like", "shards/more/").exit_code == 0
    assert [path.name for path in Path("one").iterdir()] == ["00002.parquet"]
    assert cli("export", "scores.h5", "two", "--like", "shards/00001.tar").exit_code == 0
    assert [path.name for path in Path("two").iterdir()] == ["00001.parquet"]
    for like in ("photos", "shards/more/00003.tar", "shards/alone.jpg"):
        result = cli("export", "scores.h5", "none", "--like", like)
        assert result.exit_code == 2 and f"scores.h5 has no row of a shard in {like}" in result.stderr
    assert not Path("none").exists()


@pytest.mark.parametrize(
    ("root", "key", "like", "there"),
    [
        ("file:///data", b"0.tar/a.jpg", "/data", True),
        ("file:///data", b"0.tar/a.jpg", "/other", False),
        ("file:///other", b"/data/0.tar/a.jpg", "/data", True),  # a key that is a whole path
        ("file:///data", b"s3://bucket/0.tar/a.jpg", "s3://bucket/", True),
        ("file:///data", b"s3://bucket/0.tar/a.jpg", "/data", False),
        ("", b"/data/0.tar/a.jpg", "/data", True),
        (None, b"/data/0.tar/a.jpg", "/data", True),
        (None, b"0.tar/a.jpg", "/data", False),  # of an older version, which did not record what keys are relative to
    ],
)
def test_where_a_shard_is(tmp_path: Path, root: str | None, key: bytes, like: str, there: bool) -> None:
    about = {**ATTRIBUTES} if root is None else {**ATTRIBUTES, "root": root}
    ScoreTable.from_rows([a_row(key)], about).save(tmp_path / "s.h5")
    if not there:
        with pytest.raises(UsageError, match=f"has no row of a shard in {like}"):
            export_like(tmp_path / "s.h5", tmp_path / "out", like)
        return
    assert export_like(tmp_path / "s.h5", tmp_path / "out", like) == (1, 1)
    assert pq.read_table(tmp_path / "out" / "0.parquet").column("key").to_pylist() == ["a"]


def test_nothing_of_others_is_overwritten(cli: Cli, asked: list[bytes], shards: Path) -> None:
    """Neither captions, nor scores unless told."""
    cli("score", "shards")
    for more in ([], ["--overwrite"]):
        result = cli("export", "scores.h5", "shards", "--like", "shards", *more)
        assert result.exit_code == 2 and "shards/00000.parquet is there and holds no scores" in result.stderr
    assert pq.read_table("shards/00000.parquet").column_names == ["key", "caption"]
    cli("export", "scores.h5", "out", "--like", "shards")
    result = cli("export", "scores.h5", "out", "--like", "shards")
    assert result.exit_code == 2 and "00000.parquet exists; give --overwrite or another folder" in result.stderr
    assert cli("export", "scores.h5", "out", "--like", "shards", "--overwrite").exit_code == 0
    Path("file").touch()
    assert cli("export", "scores.h5", "file/x", "--like", "shards").exit_code == 1
    assert not list(Path("out").rglob("*.tmp"))


def test_tables_as_shards(cli: Cli, asked: list[bytes], tmp_path: Path) -> None:
    images = [{"bytes": b"1", "path": "x.jpg"}, {"bytes": b"2", "path": "y.jpg"}]
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"image": images, "id": ["first.a", "second.b"]}), tmp_path / "data" / "train.parquet")
    assert cli("score", "data", "--key", "id").exit_code == 0
    assert cli("export", "scores.h5", "out", "--like", "data").exit_code == 0
    assert pq.read_table("out/train.parquet").column("key").to_pylist() == ["first.a", "second.b"]
