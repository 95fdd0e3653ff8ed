"""Score files as one: shares of a source, files of different folders, and what does not belong together."""

from __future__ import annotations

import itertools
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import quick
from metaqap_fast.scores.durable import save_scores
from metaqap_fast.scores.table import ScoreTable
from quick import files
from rows import ATTRIBUTES, a_row, rows

Cli = Callable[..., Any]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[bytes]:
    monkeypatch.chdir(tmp_path)
    return quick.use(monkeypatch)


def save(path: Path, *keys: str, score: float = 0.5, **attributes: Any) -> Path:
    about = {**ATTRIBUTES, **attributes}
    save_scores(path, about, [ScoreTable.from_rows([a_row(key.encode(), score) for key in keys], about)])
    return path


def same(one: Path, two: Path) -> None:
    a, b = ScoreTable.read(one), ScoreTable.read(two)
    assert a.keys == b.keys and a.score.tobytes() == b.score.tobytes() and a.error == b.error
    assert a.seen.tobytes() == b.seen.tobytes()
    assert {**a.attributes, "created": ""} == {**b.attributes, "created": ""}


@pytest.mark.parametrize("count", [1, 2, 5])
def test_shares_make_the_file_of_one_run(cli: Cli, asked: list[bytes], tmp_path: Path, count: int) -> None:
    folder = files(tmp_path / "photos", **{f"{d}__{i}": str(i) for d in "abc" for i in range(4)}, bad="bad")
    cli("score", folder, "-o", "whole.h5")
    parts = [f"part-{i}.h5" for i in range(count)]
    asked.clear()
    for i, part in enumerate(parts):
        assert cli("score", folder, "--shard", f"{i}/{count}", "-o", part).exit_code in (0, 5)
        assert ScoreTable.read(part).attributes["shard"] == f"{i}/{count}"
    assert len(asked) == len(set(asked)) == 13
    result = cli("merge", *reversed(parts), "-o", "merged.h5")
    assert (
        result.exit_code == 0 and result.stderr == f"13 rows of {count} file{'s' * (count > 1)} written to merged.h5\n"
    )
    same(Path("merged.h5"), Path("whole.h5"))
    for ending in ("csv", "jsonl", "parquet"):
        assert cli("merge", *parts, "-o", f"m.{ending}").exit_code == 0
        assert cli("export", "whole.h5", f"w.{ending}").exit_code == 0
    assert Path("m.csv").read_bytes() == Path("w.csv").read_bytes()
    # What was merged can be gone on with, by all or by one.
    files(folder, new="new")
    asked.clear()
    assert cli("score", folder, "-o", "merged.h5", "--resume").exit_code == 0 and asked == [b"new.jpg"]


def test_a_share_of_an_output_is_no_other_one(cli: Cli, asked: list[bytes], tmp_path: Path) -> None:
    folder = files(tmp_path / "photos", **{f"x{i}": str(i) for i in range(9)})
    cli("score", folder, "--shard", "1/3", "-o", "p.h5")
    for other in (["--shard", "0/3"], ["--shard", "1/2"], []):
        result = cli("score", folder, "-o", "p.h5", "--resume", *other)
        assert result.exit_code == 2 and "it holds share 1/3, this run is for " in result.stderr
    assert cli("score", folder, "--shard", "1/3", "-o", "p.h5", "--resume").exit_code == 0


def test_an_archive_is_in_one_share(
    cli: Cli, asked: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others do not even open it."""
    source = files(tmp_path / "photos", **{str(i): str(i) for i in range(3)})
    (tmp_path / "shards").mkdir()
    for n in range(6):
        with tarfile.open(tmp_path / "shards" / f"{n:03d}.tar", "w") as tar:
            for path in sorted(source.iterdir()):
                tar.add(path, path.name)
    opened: list[str] = []
    from metaqap_fast.input import members

    original = members.Archive.entries
    monkeypatch.setattr(members.Archive, "entries", lambda self, *a: opened.append(self.key) or original(self, *a))
    for i in range(2):
        cli("score", "shards", "--shard", f"{i}/2", "-o", f"p{i}.h5")
    assert len(opened) == len(set(opened)) == 6 and len(asked) == 18
    shares = [{key.partition(b"/")[0] for key in ScoreTable.read(f"p{i}.h5").keys} for i in range(2)]
    assert not shares[0] & shares[1] and all(shares)


def test_a_share_without_images_is_no_failure(cli: Cli, asked: list[bytes], tmp_path: Path) -> None:
    folder = files(tmp_path / "photos", a="1")
    results = [cli("score", folder, "--shard", f"{i}/4", "-o", f"p{i}.h5").exit_code for i in range(4)]
    assert results == [0] * 4
    assert cli("merge", *(f"p{i}.h5" for i in range(4)), "-o", "s.h5").exit_code == 0
    assert ScoreTable.read("s.h5").keys == [b"a.jpg"]


def test_a_missing_share_is_named(cli: Cli, tmp_path: Path) -> None:
    parts = [save(tmp_path / f"{i}.h5", f"{i}", shard=f"{i}/12") for i in range(12) if i not in (2, 10)]
    out = tmp_path / "s.h5"
    result = cli("merge", *parts, "-o", out)
    assert result.exit_code == 2 and "2 shares missing, the first is 2/12" in result.stderr
    assert not out.exists() and not list(tmp_path.glob("*.parts"))
    assert cli("merge", *parts, "-o", out, "--incomplete").exit_code == 0 and len(ScoreTable.read(out)) == 10
    assert "shard" not in ScoreTable.read(out).attributes
    other = save(tmp_path / "x.h5", "x", shard="2/11")
    result = cli("merge", *parts, other, "-o", out, "--overwrite")
    assert result.exit_code == 2 and "shares of 11 and of 12" in result.stderr


@pytest.mark.parametrize(("name", "value"), [("precision", "bf16"), ("bundle_digest", "d2"), ("engine", "other")])
def test_scores_of_another_kind_are_refused(cli: Cli, tmp_path: Path, name: str, value: str) -> None:
    one, two = save(tmp_path / "a.h5", "a"), save(tmp_path / "b.h5", "b", **{name: value})
    result = cli("merge", one, two, "-o", tmp_path / "s.h5")
    assert result.exit_code == 2 and f"cannot merge {two}: its rows were made with {name} {value!r}" in result.stderr
    assert len(result.stderr.splitlines()) == 1 and not (tmp_path / "s.h5").exists()


def test_files_of_different_folders(cli: Cli, asked: list[bytes], tmp_path: Path) -> None:
    """The keys are those of both folders scored together: equal names are no equal images."""
    one, two = files(tmp_path / "x" / "one", a="1", b="2"), files(tmp_path / "x" / "two", a="3", d__c="4")
    cli("score", one, "-o", "1.h5")
    cli("score", two, "-o", "2.h5")
    cli("score", one, two, "-o", "both.h5")
    assert cli("merge", "1.h5", "2.h5", "-o", "merged.h5").exit_code == 0
    same(Path("merged.h5"), Path("both.h5"))
    with h5py.File("2.h5", "a") as file:
        del file.attrs["root"]
    result = cli("merge", "1.h5", "2.h5", "-o", "again.h5")
    assert result.exit_code == 2 and "2.h5 does not say what its keys are relative to" in result.stderr


def test_of_equal_keys_the_last_file_counts(cli: Cli, tmp_path: Path) -> None:
    one = save(tmp_path / "a.h5", "a", "b", score=0.25, root="file:///x", roots=["file:///x"], source=["x"])
    two = save(tmp_path / "b.h5", "b", "c", score=0.75, root="file:///x", roots=["file:///x"], source=["./x"])
    for order, expected in (([one, two], 0.75), ([two, one], 0.25)):
        out = tmp_path / "s.h5"
        assert cli("merge", *order, "-o", out, "--overwrite").exit_code == 0
        table = ScoreTable.read(out)
        assert table.keys == [b"a", b"b", b"c"] and table.score[1] == np.float32(expected)
        assert table.attributes["roots"] == ["file:///x"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.h5", "-o", "s.h5"], "no such file: no.h5"), (["a.h5", "-o", "a.h5"], "a.h5 exists"),
        (["a.h5", "-o", "s.txt"], "must end in .h5"), (["a.h5", "-o", "no/s.h5"], "folder does not exist"),
        (["folder", "-o", "s.h5"], "folder is a folder without rows of a run"),
        (["text.h5", "-o", "s.h5"], "text.h5 is not a score file, for it is not HDF5"),
    ],
)  # fmt: skip
def test_mistakes(
    cli: Cli, tmp_path: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.h5", "a")
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.h5").write_text("text")
    before = sorted(tmp_path.iterdir())
    result = cli("merge", *arguments)
    assert result.exit_code in (1, 2) and message in result.stderr and len(result.stderr.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_full_disk_leaves_what_was_there(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, out = [save(tmp_path / f"{i}.h5", f"{i}") for i in range(2)], save(tmp_path / "s.h5", "old")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("metaqap_fast.scores.durable.append_rows", full_disk)
    result = cli("merge", *parts, "-o", out, "--overwrite")
    assert result.exit_code == 1 and f"cannot write {out}: No space left on device" in result.stderr
    assert ScoreTable.read(out).keys == [b"old"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.h5", "1.h5", "s.h5"]


def test_what_is_merged_is_told(cli: Cli, tmp_path: Path) -> None:
    import json

    save_scores(tmp_path / "a.h5", ATTRIBUTES, [ScoreTable.from_rows(rows(*range(100)), ATTRIBUTES)])
    found = json.loads(cli("merge", tmp_path / "a.h5", "-o", tmp_path / "s.h5", "--json").stdout)
    assert (found["rows"], found["scored"], found["failed"]) == (100, 100, {})
    assert found["percentiles"]["50"] == pytest.approx(0.0495, abs=1.5e-4)
    assert list(itertools.islice((image["score"] for image in found["worst"]), 2)) == [0.0, 0.001]
