"""What is said to be written is on the disk; what fails says so."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from metaqap_fast.scores.durable import Remembering, digest, sync_folder, write_scores
from metaqap_fast.scores.table import ScoreTable
from rows import a_row

TABLE = ScoreTable.from_rows([a_row(b"a")], {"members": ["a", "b"]})


def test_a_file_is_synced_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    write_scores(tmp_path / "s.h5", TABLE.attributes, [TABLE, TABLE])
    assert synced == [(tmp_path / "s.h5").stat().st_size] and len(ScoreTable.read(tmp_path / "s.h5")) == 2


def test_rows_after_the_first_failure_are_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def tables() -> Iterator[ScoreTable]:
        for number in range(3):
            asked.append(number)
            monkeypatch.setattr("os.write", no_room)
            yield ScoreTable.from_rows([a_row(b"%d" % i) for i in range(9000)], TABLE.attributes)

    with pytest.raises(OSError, match="No space left"):
        write_scores(tmp_path / "s.h5", TABLE.attributes, tables())
    assert len(asked) < 3


def no_room(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_remembers_its_first_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Remembering(tmp_path / "f", "w+") as file:
        assert file.write(memoryview(b"abcdef")) == 6 and file.error is None
        assert file.truncate(3) == 3 and (tmp_path / "f").read_bytes() == b"abc"
        file.check()
        with monkeypatch.context() as patch:
            patch.setattr("os.write", no_room)
            assert file.write(b"xyz") == 3  # as if nothing had happened, for HDF5
            patch.setattr("os.write", broken)
            assert file.write(b"") == 0 and file.write(b"z") == 1
        with pytest.raises(OSError, match="No space left"):
            file.check()
    with open("/dev/full", "wb") as full, Remembering(full.fileno(), "w", closefd=False) as file:
        assert file.truncate(7) == 7 and file.truncate() == 0 and file.error is not None


def broken(*_: object) -> int:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_what_a_short_write_leaves_is_written_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.write
    with monkeypatch.context() as patch, Remembering(tmp_path / "f", "w+") as file:
        patch.setattr("os.write", lambda fd, data: original(fd, bytes(data)[:2]))
        assert file.write(memoryview(b"abcde")) == 5
    assert (tmp_path / "f").read_bytes() == b"abcde"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EACCES])
def test_folders_are_synced_where_that_can_be_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    synced: list[bool] = []
    monkeypatch.setattr("os.fsync", lambda fd: synced.append(stat.S_ISDIR(os.fstat(fd).st_mode)))
    before = len(os.listdir("/proc/self/fd"))
    sync_folder(tmp_path)
    assert synced == [True]

    def fails(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", fails)
    sync_folder(tmp_path)
    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        sync_folder(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "missing")
    assert len(os.listdir("/proc/self/fd")) == before


def test_digest(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc" * 100_000)
    assert digest(tmp_path / "f") == hashlib.sha256(b"abc" * 100_000).hexdigest()[:16]
