"""The same output again: what is scored again, what is kept, what is said, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest

import quick
from metaqap_fast.scores.claim import Claim
from metaqap_fast.scores.table import ScoreTable
from quick import files, interrupted, score_of

Cli = Callable[..., Any]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[bytes]:
    monkeypatch.chdir(tmp_path)
    return quick.use(monkeypatch)


def scores(path: Path | str) -> dict[str, float]:
    table = ScoreTable.read(path)
    return dict(zip(table.paths, table.score.tolist(), strict=True))


def summary(result: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def changed(path: Path, text: str) -> None:
    """Another file under the same name, at another time."""
    path.write_text(text)
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1_000_000_000))


def test_what_has_changed_is_scored_again(cli: Cli, asked: list[bytes], tmp_path: Path) -> None:
    """One file is another now, one was only touched, one is new, one is gone."""
    folder = files(tmp_path / "photos", a="one", b="two", c="three", d="four")
    assert cli("score", folder, "--json").exit_code == 0
    asked.clear()
    changed(folder / "b.jpg", "TWO")  # of the same size
    os.utime(folder / "c.jpg", (1, 1))
    files(folder, e="five")
    (folder / "d.jpg").unlink()
    result = cli("score", "./photos/", "--resume", "--json")
    assert result.exit_code == 0 and asked == [b"b.jpg", b"c.jpg", b"e.jpg"]
    found = summary(result)
    assert [found[name] for name in ("images", "rows", "resumed_rows", "changed_rows", "gone_rows")] == [3, 5, 4, 2, 1]
    assert scores("scores.h5") == {
        f"{name}.jpg": score_of(text)
        for name, text in {"a": b"one", "b": b"TWO", "c": b"three", "d": b"four", "e": b"five"}.items()
    }
    asked.clear()
    again = cli("score", folder, "--resume", "--prune", "--json")
    assert again.exit_code == 0 and asked == [] and sorted(scores("scores.h5")) == ["a.jpg", "b.jpg", "c.jpg", "e.jpg"]
    assert (summary(again)["gone_rows"], summary(again)["pruned"]) == (1, True)
    assert summary(cli("score", folder, "--resume", "--json"))["gone_rows"] == 0


def test_a_run_that_finds_nothing_new_leaves_the_file_alone(cli: Cli, asked: list[bytes], tmp_path: Path) -> None:
    folder = files(tmp_path / "photos", a="one")
    cli("score", folder)
    before = os.stat("scores.h5")
    assert cli("score", folder, "--resume").exit_code == 0
    assert os.stat("scores.h5").st_mtime_ns == before.st_mtime_ns and sorted(os.listdir()) == ["photos", "scores.h5"]


def test_counts_and_extremes_are_of_the_whole_file(cli: Cli, asked: list[bytes], tmp_path: Path) -> None:
    folder = files(tmp_path / "photos", **{f"x{i}": str(i) for i in range(12)}, bad="bad")
    cli("score", folder)
    (folder / "x3.jpg").unlink()
    files(folder, new="12")
    result = cli("score", folder, "--resume", "--json")
    found, table = summary(result), ScoreTable.read("scores.h5")
    assert (found["rows"], found["scored"], found["failed"], found["images"]) == (14, 13, {"corrupt": 1}, 1)
    ordered = sorted(round(float(score), 4) for score in table.score[table.ok])
    assert [image["score"] for image in found["worst"]] == ordered[:5]
    assert [image["score"] for image in found["best"]] == ordered[::-1][:5]
    assert found["first_failures"] == [{"path": "bad.jpg", "status": "corrupt", "error": "bad bytes"}]
    text = cli("score", folder, "--resume").stderr
    assert "13 scored, 1 failed (1 corrupt)" in text and "14 rows kept from an earlier run" in text and "-1" not in text
    assert "1 row kept of images that no longer exist (--prune removes them)" in text


def test_what_failed_is_tried_again_when_it_is_another_file(cli: Cli, asked: list[bytes], tmp_path: Path) -> None:
    """Also a file that was missing: a list names it."""
    folder = files(tmp_path / "photos", a="bad", b="bad", c="three")
    (tmp_path / "list.txt").write_text("photos/a.jpg\nphotos/b.jpg\nphotos/c.jpg\nphotos/gone.jpg\n")
    assert summary(cli("score", "@list.txt", "--json"))["failed"] == {"corrupt": 2, "unreadable": 1}
    asked.clear()
    changed(folder / "a.jpg", "one")
    files(folder, gone="back")
    found = summary(cli("score", "@list.txt", "--resume", "--json"))
    assert asked == [b"a.jpg", b"gone.jpg"] and found["failed"] == {"corrupt": 1}
    asked.clear()
    found = summary(cli("score", "@list.txt", "--resume", "--retry-failed", "--json"))
    assert asked == [b"b.jpg"] and (found["retried_rows"], found["failed"]) == (1, {"corrupt": 1})


def test_another_folder_is_a_second_source(cli: Cli, asked: list[bytes], tmp_path: Path) -> None:
    """Its images have keys of their own: never the first folder's scores under the second's names."""
    one, two = files(tmp_path / "one", a="1", b="2"), files(tmp_path / "two", a="3", b="4")
    cli("score", one)
    result = cli("score", two, "--resume", "--json")
    assert result.exit_code == 0 and summary(result)["gone_rows"] == 2
    found = scores("scores.h5")
    assert found == {
        "a.jpg": score_of(b"1"), "b.jpg": score_of(b"2"), f"{two}/a.jpg": score_of(b"3"), f"{two}/b.jpg": score_of(b"4")
    }  # fmt: skip
    about = ScoreTable.read("scores.h5").attributes
    assert about["root"] == f"file://{one}" and about["roots"] == [f"file://{one}", f"file://{two}"]
    assert about["source"] == [str(one), str(two)]
    both = summary(cli("score", one, two, "--resume", "--json"))
    assert (both["images"], both["gone_rows"], both["rows"]) == (0, 0, 4)
    assert cli("score", two, "--resume", "--prune").exit_code == 0
    assert list(scores("scores.h5")) == [f"{two}/a.jpg", f"{two}/b.jpg"]
    assert ScoreTable.read("scores.h5").attributes["roots"] == [f"file://{two}"]


def test_a_folder_that_was_moved(cli: Cli, asked: list[bytes], tmp_path: Path) -> None:
    cli("score", files(tmp_path / "old", a="1", x__b="2"))
    (tmp_path / "old").rename(tmp_path / "new")
    asked.clear()
    result = cli("score", "new", "--resume", "--moved", "--json")
    assert result.exit_code == 0 and asked == [] and (summary(result)["rows"], summary(result)["gone_rows"]) == (2, 0)
    about = ScoreTable.read("scores.h5").attributes
    assert about["root"] == f"file://{tmp_path}/new" and about["roots"] == [about["root"]]
    assert summary(cli("score", "new", "--resume", "--json"))["images"] == 0


def test_rows_of_what_could_not_be_read_are_not_pruned(
    cli: Cli, asked: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount that is away is no deletion."""
    folder = files(tmp_path / "photos", a="1", x__b="2", x__y__c="3", z__d="4")
    cli("score", folder)
    shutil.rmtree(folder / "z")
    original = os.scandir

    def scandir(path: Any = ".") -> Any:
        if os.fsencode(path).endswith(b"/x"):
            raise PermissionError(13, "Permission denied")
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    cli("score", folder, "--resume", "--prune")
    assert sorted(scores("scores.h5")) == ["a.jpg", "x", "x/b.jpg", "x/y/c.jpg"]


def test_a_file_of_an_older_version(cli: Cli, asked: list[bytes], tmp_path: Path) -> None:
    """Which has kept neither what it saw nor a root: its rows are good, unless it had several sources."""
    folder = files(tmp_path / "photos", a="1", b="2")
    cli("score", folder)
    with h5py.File("scores.h5", "a") as file:
        del file["scores/seen"], file["scores/note"], file.attrs["root"], file.attrs["roots"]
        file.attrs["format_version"] = 1
    changed(folder / "a.jpg", "one")
    asked.clear()
    assert cli("score", folder, "--resume").exit_code == 0 and asked == []
    assert ScoreTable.read("scores.h5").attributes["root"] == f"file://{folder}"
    with h5py.File("scores.h5", "a") as file:
        del file.attrs["root"]
        file.attrs["source"] = ["x", "y"]
    result = cli("score", folder, "--resume")
    assert result.exit_code == 2 and "an older version of the program wrote it" in result.stderr


def test_a_second_run_is_refused_before_the_model(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[bytes]
) -> None:
    monkeypatch.setattr("metaqap_fast.scorer.Scorer", lambda **_: pytest.fail("a model was compiled"))
    folder, out = files(tmp_path / "photos", a="1"), tmp_path / "s.h5"
    with Claim(out):
        for mode in ([], ["--resume"], ["--overwrite"]):
            result = cli("score", folder, "-o", out, *mode)
            assert result.exit_code == 2
            assert f"another run (process {os.getpid()}) is writing {out}" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("ending", ["h5", "csv"])
def test_an_output_that_is_a_link(cli: Cli, asked: list[bytes], tmp_path: Path, there: bool, ending: str) -> None:
    """The link stays and what it stands for is written, whatever its name, with its parts beside it."""
    folder, disk = files(tmp_path / "photos", a="1"), tmp_path / "disk"
    disk.mkdir()
    if there:
        (disk / "real").write_text("old")
    (tmp_path / f"s.{ending}").symlink_to("disk/real")
    assert cli("score", folder, "-o", f"s.{ending}", "--overwrite").exit_code == 0
    assert (tmp_path / f"s.{ending}").is_symlink() and os.listdir(disk) == ["real"]
    if ending == "h5":
        assert cli("score", folder, "--resume", "-o", "s.h5").exit_code == 0
        assert cli("merge", "s.h5", "-o", "s.h5", "--overwrite").exit_code == 0 and Path("s.h5").is_symlink()
        assert cli("export", "s.h5", "t.csv").exit_code == 0 and len(ScoreTable.read(disk / "real")) == 1
        (tmp_path / "l.csv").symlink_to("disk/t.csv")
        assert cli("export", "s.h5", "l.csv").exit_code == 0 and (tmp_path / "l.csv").is_symlink()
        assert (disk / "t.csv").read_text() == (tmp_path / "t.csv").read_text()
    else:
        assert (disk / "real").read_text().startswith("path,score")


def test_what_an_interrupted_run_has_left(cli: Cli, asked: list[bytes], tmp_path: Path) -> None:
    folder, out = files(tmp_path / "photos", a="1", b="2", c="bad", d="4"), tmp_path / "s.h5"
    interrupted(folder, out, 3)
    shown = cli("inspect", out)
    assert shown.exit_code == 0 and f"{out}: 3 rows, 2 scored\n" in shown.stdout
    assert "not finished: a run was interrupted, with 2 parts committed to" in shown.stdout
    found = json.loads(cli("inspect", out, "--json").stdout)
    assert found["rows"] == 3 and "--resume" in found["unfinished"] and found["attributes"]["engine"] == "quick"
    (tmp_path / "labels.csv").write_text("image,mos\na.jpg,1\n")
    for command in (["export", out, "t.csv"], ["evaluate", out, "--labels", "labels.csv"]):
        result = cli(*command)
        assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
        assert f"no such file: {out}, but a run was interrupted, with 2 parts" in result.stderr
    assert cli("merge", f"{out}.parts", "-o", "so_far.csv").exit_code == 0
    assert len(Path("so_far.csv").read_text().splitlines()) == 4
    with Claim(out, "resume"):
        assert f"process {os.getpid()} is writing it" in cli("inspect", out).stdout
    assert cli("score", folder, "-o", out, "--resume").exit_code == 0 and len(ScoreTable.read(out)) == 4
    assert "not finished" not in cli("inspect", out).stdout


@pytest.mark.parametrize("name", ["typo.h5", "no/typo.h5", "typo.csv"])
def test_a_score_file_that_is_not_there(cli: Cli, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (["inspect", name], ["inspect", name, "--json"], ["export", name, "x.csv"]):
        result = cli(*command)
        assert (result.exit_code, result.stderr) == (2, f"metaqap-fast: no such file: {name}\n"), command
