"""File systems that lack something, and what HDF5 could not hold: found before scoring, or no matter."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import h5py
import numpy as np
import pytest

from crash import FakeScorer
from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.input import open_sources
from metaqap_fast.run import run
from metaqap_fast.scores.merge import merged
from metaqap_fast.scores.store import Store
from metaqap_fast.scores.table import ScoreTable
from rows import ATTRIBUTES, a_row, rows, store_rows


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def no_flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", no_flock)
    store_rows(tmp_path / "s.h5", rows(1))
    assert "s.h5 is on a file system without locks" in caplog.text and len(caplog.records) == 1
    assert ScoreTable.read(tmp_path / "s.h5").keys == [b"001.jpg"]


def test_a_lock_that_fails_otherwise_ends_the_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", full_disk)
    with pytest.raises(MetaqapError, match=r"cannot write .*s\.h5\.parts: No space left on device$"):
        Store(tmp_path / "s.h5", ATTRIBUTES)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "fails"), [(errno.EINVAL, False), (errno.ENOSYS, False), (errno.EIO, True)])
def test_a_file_system_that_cannot_sync_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, fails: bool
) -> None:
    original = os.fsync

    def fsync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(number, os.strerror(number))
        original(fd)

    monkeypatch.setattr("os.fsync", fsync)
    if fails:
        with pytest.raises(MetaqapError, match="Input/output error"):
            Store(tmp_path / "s.h5", ATTRIBUTES)
    else:
        store_rows(tmp_path / "s.h5", rows(1))
        assert len(ScoreTable.read(tmp_path / "s.h5")) == 1


def test_what_cannot_be_written_is_found_before_scoring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first file that is written holds no rows; if that fails, nothing is left of it."""
    monkeypatch.setattr("metaqap_fast.scores.durable.create_scores", full_disk)
    with pytest.raises(MetaqapError, match=r"cannot write .*s\.h5\.parts: No space left on device$"):
        Store(tmp_path / "s.h5", ATTRIBUTES)
    assert not list(tmp_path.iterdir())


def test_sources_by_the_thousand_and_of_any_bytes(tmp_path: Path) -> None:
    """As the shell makes of *.jpg: a run and its continuation."""
    out, source = tmp_path / "s.h5", [f"photos/{i:07d}.jpg" for i in range(5_000)]
    attributes = {**ATTRIBUTES, "source": [*source, "photos\udcff"]}
    for mode, key in (("new", b"a"), ("resume", b"b"), ("resume", b"c")):
        store = Store(out, attributes, mode, rows_per_part=1)  # type: ignore[arg-type]
        store.add(a_row(key))
        store.finish() if key == b"a" else store.close()
    store_rows(out, rows(), mode="resume")
    table = ScoreTable.read(out)
    assert table.keys == [b"a", b"b", b"c"] and table.attributes["source"] == [*source, r"photos\xff"]


def test_runs_of_sources_that_hdf5_could_not_hold(tmp_path: Path) -> None:
    """The whole way from names on a command line: thousands of them, and one that is not UTF-8."""
    folder = tmp_path / "photos\udcff"
    folder.mkdir()
    (folder / "a.jpg").touch()
    for out, sources in (("a.h5", [folder]), ("b.h5", [folder / "a.jpg"] * 5000)):
        run(FakeScorer(), open_sources(sources), tmp_path / out)  # type: ignore[arg-type]
    one, two = ScoreTable.read(tmp_path / "a.h5"), ScoreTable.read(tmp_path / "b.h5")
    assert len(one) == len(two) == 1
    assert one.attributes["source"] == [f"{tmp_path}/photos\\xff"]
    assert two.attributes["source"] == [f"{tmp_path}/photos\\xff/a.jpg"] * 5000


@pytest.mark.parametrize("length", [253, 252, 244, 243])
def test_a_name_that_is_too_long_is_refused_before_work(tmp_path: Path, length: int) -> None:
    """Also one that only the files beside the output would be too long for; the longest that works does."""
    out = tmp_path / ("s" * length + ".h5")
    if length > 243:
        with pytest.raises(MetaqapError, match=r"cannot write .*: File name too long$"):
            Store(out, ATTRIBUTES)
        assert not list(tmp_path.iterdir())
    else:
        store_rows(out, rows(*range(8)))
        assert len(ScoreTable.read(out)) == 8


def test_columns_of_a_newer_version_are_not_lost(tmp_path: Path) -> None:
    """They can be read, exported and so on; but not rewritten without them."""
    out = tmp_path / "s.h5"
    store_rows(out, rows(1))
    with h5py.File(out, "a") as file:
        file["scores/later"], file["scores/more"] = [1], [2]
    for _ in range(2):
        with pytest.raises(UsageError, match=r"s\.h5 has columns that this version .* would lose \(later, more\)"):
            Store(out, ATTRIBUTES, "resume")
    with pytest.raises(UsageError, match="would lose"):
        list(merged([out]))
    assert [path.name for path in tmp_path.iterdir()] == ["s.h5"] and len(ScoreTable.read(out)) == 1


ODD = [(b"bytes", "bytes"), (h5py.Empty("f4"), []), (np.bool_(True), True), (np.array([b"a"]), ["a"]), (2j, "2j")]


@pytest.mark.parametrize(("value", "expected"), ODD)
def test_a_file_with_odd_attributes_can_be_resumed(tmp_path: Path, value: object, expected: object) -> None:
    out = tmp_path / "s.h5"
    store_rows(out, rows(1))
    with h5py.File(out, "a") as file:
        file.attrs["odd"] = value
    store_rows(out, rows(2), mode="resume")
    assert ScoreTable.read(out).attributes["odd"] == expected


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
