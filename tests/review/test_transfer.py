"""Chosen images copied, linked and moved, and what goes wrong with it."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from metaqap_fast.cli import main
from metaqap_fast.review import transfer
from metaqap_fast.scores.table import ScoreTable
from rows import ATTRIBUTES, a_row

Scored = Callable[..., Path]
SCORES = {"a/x.jpg": 0.1, "b/x.jpg": 0.2, 'it\'s "<b>".jpg': 0.3, "good.jpg": 0.9}
BAD = ["a/x.jpg", "b/x.jpg", 'it\'s "<b>".jpg']


def select(scores: Path, *arguments: object, input: str | None = None) -> Result:
    return CliRunner().invoke(main, ["select", str(scores), *map(str, arguments)], input=input)


def files(folder: Path) -> list[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return sorted(name for name in found if not name.startswith("undo-"))


def test_moved_with_their_folders_and_moved_back(scored: Scored, tmp_path: Path) -> None:
    scores, rejects = scored(SCORES), tmp_path / "rejects"
    result = select(scores, "--worst", "75%", "--move", rejects, "--yes")
    assert result.exit_code == 0, result.output
    assert files(rejects) == BAD
    assert files(tmp_path / "photos") == ["good.jpg"]
    (undo,) = rejects.glob("undo-*.sh")
    assert str(undo) in result.output
    for back in (3, 0):  # it may be run twice
        told = subprocess.run(["sh", undo], check=True, capture_output=True, text=True).stdout
        assert told == f"{back} of 3 files moved back\n"
        assert files(tmp_path / "photos") == sorted(SCORES)
        assert (tmp_path / "photos/a/x.jpg").read_text() == "a/x.jpg"


def test_a_sidecar_goes_with_its_image(scored: Scored, tmp_path: Path) -> None:
    scores = scored(SCORES)
    (tmp_path / "photos/a/x.jpg.xmp").write_text("edits")
    result = select(scores, "--worst", "1", "--move", tmp_path / "rejects", "--yes")
    assert "Moved 1 image" in result.output
    assert files(tmp_path / "rejects") == ["a/x.jpg", "a/x.jpg.xmp"]
    (undo,) = (tmp_path / "rejects").glob("undo-*.sh")
    subprocess.run(["sh", undo], check=True)
    assert files(tmp_path / "photos") == sorted([*SCORES, "a/x.jpg.xmp"])


@pytest.mark.parametrize("how", ["--copy", "--link"])
def test_copies_and_links(scored: Scored, tmp_path: Path, how: str) -> None:
    result = select(scored(SCORES), "--below", "0.5", how, tmp_path / "bad", "--yes")
    assert result.exit_code == 0, result.output
    assert files(tmp_path / "bad") == BAD
    assert (tmp_path / "bad/b/x.jpg").is_symlink() == (how == "--link")
    assert (tmp_path / "bad/b/x.jpg").read_text() == "b/x.jpg"
    assert files(tmp_path / "photos") == sorted(SCORES)


@pytest.mark.parametrize("arguments", [["--plan"], []])
def test_nothing_is_changed_by_a_plan_or_without_an_answer(
    scored: Scored, tmp_path: Path, arguments: list[str]
) -> None:
    result = select(scored(SCORES), "--worst", "1", "--move", tmp_path / "rejects", *arguments)
    assert result.exit_code == (0 if arguments else 2)
    assert "a/x.jpg -> " in result.output
    assert not (tmp_path / "rejects").exists()
    assert files(tmp_path / "photos") == sorted(SCORES)


def test_a_name_that_exists_stops_all(scored: Scored, tmp_path: Path) -> None:
    taken = tmp_path / "rejects/b/x.jpg"
    taken.parent.mkdir(parents=True)
    taken.write_text("mine")
    result = select(scored(SCORES), "--worst", "3", "--move", tmp_path / "rejects", "--yes")
    assert result.exit_code == 2
    assert "b/x.jpg exists: nothing was done" in result.output
    assert taken.read_text() == "mine"
    assert files(tmp_path / "rejects") == ["b/x.jpg"]
    assert files(tmp_path / "photos") == sorted(SCORES)


def test_what_cannot_be_moved_is_left_out_and_named(scored: Scored, tmp_path: Path) -> None:
    scores = scored(SCORES, more=[a_row(b"../evil.jpg", 0.15), a_row(b"shard.tar/m.jpg", 0.16)])
    photos = tmp_path / "photos"
    (photos / "a/x.jpg").unlink()
    (photos / "shard.tar/m.jpg").unlink()
    (photos / "shard.tar").rmdir()
    (photos / "shard.tar").write_text("an archive")
    result = select(scores, "--worst", "5", "--move", tmp_path / "rejects", "--yes")
    assert result.exit_code == 1
    assert "1 image left out: not there any more (a/x.jpg); if their folder was moved, give --images" in result.output
    assert "1 image left out: inside an archive (shard.tar/m.jpg)" in result.output
    assert "1 image left out: its name is not a path in the folder of the images (../evil.jpg)" in result.output
    assert files(tmp_path / "rejects") == BAD[1:]


def test_what_a_kept_link_leads_to_stays(scored: Scored, tmp_path: Path) -> None:
    """Of two names of one file the first is kept. If it is a link, nothing would be left where it leads."""
    rows = [replace(a_row(name, 0.5), hash=7) for name in (b"a.jpg", b"b.jpg", b"z.jpg")]
    scores = scored({}, more=rows)
    (tmp_path / "photos/a.jpg").unlink()
    (tmp_path / "photos/a.jpg").symlink_to("z.jpg")
    result = select(scores, "--duplicates", "--move", tmp_path / "copies", "--yes")
    assert "1 image left out: its better copy is a link to it (z.jpg)" in result.output
    assert files(tmp_path / "copies") == ["b.jpg"] and files(tmp_path / "photos") == ["a.jpg", "z.jpg"]


def test_an_image_that_is_another_one_now_stays(scored: Scored, tmp_path: Path) -> None:
    scores = scored({}, more=[replace(a_row(b"x.jpg", 0.1), seen=5)])
    result = select(scores, "--worst", "1", "--move", tmp_path / "rejects", "--yes")
    assert "changed since it was scored (x.jpg)" in result.output
    assert files(tmp_path / "photos") == ["x.jpg"]


def test_a_move_that_fails_midway_can_be_undone(
    scored: Scored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, real, calls = scored(SCORES), os.replace, []

    def full(source: bytes, target: bytes) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), target)
        real(source, target)

    monkeypatch.setattr(transfer.os, "replace", full)
    result = select(scores, "--worst", "3", "--move", tmp_path / "rejects", "--yes")
    assert result.exit_code == 1
    assert "No space left" in result.output
    assert files(tmp_path / "rejects") == ["a/x.jpg"]  # and no empty file in place of the second
    (undo,) = (tmp_path / "rejects").glob("undo-*.sh")
    assert f"`sh {undo}` brings back what was moved" in result.output
    subprocess.run(["sh", undo], check=True)
    assert files(tmp_path / "photos") == sorted(SCORES)


def test_a_copy_that_fails_midway_leaves_nothing(
    scored: Scored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/mine").write_text("mine")

    def full(source: bytes, target: bytes) -> None:
        Path(os.fsdecode(target)).write_text("half")
        if b"it's" in source:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), target)

    monkeypatch.setattr(transfer.shutil, "copy2", full)
    result = select(scored(SCORES), "--worst", "3", "--copy", tmp_path / "bad", "--yes")
    assert result.exit_code == 1
    assert "nothing was done" in result.output
    assert [path.name for path in (tmp_path / "bad").rglob("*")] == ["mine"]


def test_to_another_disk(scored: Scored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, real = scored(SCORES), os.replace

    def across(source: bytes, target: bytes) -> None:
        if os.path.dirname(source) != os.path.dirname(target):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        real(source, target)

    monkeypatch.setattr(transfer.os, "replace", across)
    result = select(scores, "--worst", "3", "--move", tmp_path / "rejects", "--yes")
    assert result.exit_code == 0, result.output
    assert files(tmp_path / "rejects") == BAD
    assert files(tmp_path / "photos") == ["good.jpg"]


def test_a_target_that_is_no_folder(scored: Scored, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for target, says in ((tmp_path / "file", "is not a folder"), (tmp_path / "file/below", "file; nothing was done")):
        result = select(scored(SCORES), "--worst", "1", "--copy", target, "--yes")
        assert result.exit_code in (1, 2)
        assert says in result.output


def test_paths_are_printed_as_they_can_be_opened(
    scored: Scored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = scored(SCORES)
    monkeypatch.chdir(tmp_path)
    result = select(scores, "--worst", "2")
    assert result.stdout == "photos/a/x.jpg\nphotos/b/x.jpg\n"
    assert "2 of 4 images selected (scores 0.100 to 0.200)" in result.stderr
    assert select(scores, "--worst", "2", "-0").stdout == "photos/a/x.jpg\0photos/b/x.jpg\0"
    lines = select(scores, "--best", "1", "--csv").stdout.splitlines()
    assert [line.split(",")[0] for line in lines] == ["path", "good.jpg"]


def test_a_file_of_an_older_version_is_told_where_its_images_are(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_text("")
    ScoreTable.from_rows([a_row(b"x.jpg", 0.1)], ATTRIBUTES).save(tmp_path / "old.h5")
    assert select(tmp_path / "old.h5", "--worst", "1").stdout == "x.jpg\n"
    result = select(tmp_path / "old.h5", "--worst", "1", "--copy", tmp_path / "new", "--yes")
    assert "give --images" in result.output
    result = select(tmp_path / "old.h5", "--worst", "1", "--copy", tmp_path / "new", "--yes", "--images", tmp_path)
    assert files(tmp_path / "new") == ["x.jpg"], result.output
