"""An output that is ours to write: what is refused before anything is touched, and who is writing it."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.scores import claim
from metaqap_fast.scores.claim import Claim, check_output, parts_of, writer_of


@pytest.mark.parametrize("name", ["s.h5", "s.HDF5", "s.csv", "s.jsonl", "s.parquet"])
def test_what_may_be_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for mode in ("new", "resume", "overwrite"):
        check_output(path, mode)  # type: ignore[arg-type]
    path.touch()
    check_output(path, "overwrite")
    with pytest.raises(UsageError, match=rf"{name} exists; give --resume, --overwrite or another -o"):
        check_output(path, "new")
    if path.suffix.lower() in (".h5", ".hdf5"):
        check_output(path, "resume")
    else:
        with pytest.raises(UsageError, match=rf"{name} is finished, and only a score file \(.h5\) can be added to"):
            check_output(path, "resume")


def test_what_may_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, words in (
        (tmp_path, "is a folder; the output is a file"),
        (tmp_path / "no" / "s.h5", f"the output's folder does not exist: {tmp_path}/no"),
        (tmp_path / "s.txt", "cannot write s.txt: the name must end in"),
    ):
        with pytest.raises(UsageError, match=words):
            check_output(path, "overwrite")
    with pytest.raises(MetaqapError, match=r"cannot write .*: File name too long$"):
        check_output(tmp_path / ("x" * 300 + ".h5"), "new")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="folder does not exist"):
        check_output(tmp_path / "file" / "s.h5", "new")
    monkeypatch.setattr(os, "access", lambda path, how: how != os.W_OK)
    with pytest.raises(MetaqapError, match=f"cannot write to {tmp_path}: permission denied"):
        check_output(tmp_path / "s.h5", "new")
    monkeypatch.setattr(claim.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MetaqapError, match="pyarrow is missing"):
        check_output(tmp_path / "s.parquet", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_who_is_writing_it(tmp_path: Path) -> None:
    out = tmp_path / "s.h5"
    assert writer_of(out) is None
    with Claim(out) as first:
        assert (first.output, first.suffix, first.parts) == (out, ".h5", parts_of(out))
        assert writer_of(out) == str(os.getpid())
        with pytest.raises(UsageError, match=rf"another run \(process {os.getpid()}\) is writing {out}"):
            Claim(out)
        assert writer_of(out) == str(os.getpid())  # the one that was refused took nothing away
        (first.parts / "lock").write_bytes(b" \n")
        assert writer_of(out) == "unknown"
    assert writer_of(out) is None and not parts_of(out).exists()
    first.close()  # once more does no harm
    parts_of(out).mkdir()
    (parts_of(out) / "lock").write_text("1234567")  # longer than any number that is written over it
    with Claim(out):
        assert writer_of(out) == str(os.getpid())


def test_it_may_be_looked_at_by_several(tmp_path: Path) -> None:
    """A look takes a lock that is shared, and waits for nobody."""
    out = tmp_path / "s.h5"
    parts_of(out).mkdir()
    with open(parts_of(out) / "lock", "w") as lock:
        lock.write("77")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert writer_of(out) is None
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert writer_of(out) == "77"


def test_committed_rows_stay_and_an_empty_folder_goes(tmp_path: Path) -> None:
    out = tmp_path / "s.h5"
    with Claim(out) as held:
        (held.parts / "part-000000-0123456789abcdef.damaged").touch()
    assert held.parts.is_dir()
    with Claim(out):  # nothing that is whole would be lost
        (held.parts / "part-000001-0123456789abcdef.h5").touch()
    with pytest.raises(UsageError, match="holds rows of an interrupted run; give --resume or --overwrite"):
        Claim(out)
    for mode in ("resume", "overwrite"):
        with Claim(out, mode) as held:  # type: ignore[arg-type]
            assert held.mode == mode
    assert len(list(held.parts.glob("part-*"))) == 2


def test_a_lock_that_its_run_removed_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between our opening it and our lock: another one is made, else two runs would hold one each."""
    out, taken = tmp_path / "s.h5", []
    real = fcntl.flock

    def flock(lock: Any, how: int) -> None:
        if not taken:
            Path(lock.name).unlink()
            Path(lock.name).parent.rmdir()
        taken.append(how)
        real(lock, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with Claim(out) as held:
        assert taken == [fcntl.LOCK_EX | fcntl.LOCK_NB] * 2
        assert (held.parts / "lock").read_text() == str(os.getpid())
        with pytest.raises(UsageError, match="another run"):
            Claim(out)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO])
def test_without_locks(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def flock(lock: Any, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    out = tmp_path / "s.h5"
    assert writer_of(out) is None
    if number == errno.EIO:
        with pytest.raises(MetaqapError, match=f"cannot write {parts_of(out)}: Input/output error"):
            Claim(out)
        return
    with Claim(out) as held:
        assert f"{out} is on a file system without locks" in caplog.text
        assert writer_of(out) is None and held.parts.is_dir()


def test_links_are_followed(tmp_path: Path) -> None:
    """Also one to a file that is not there yet; the kind of file is that of the name that was given."""
    (tmp_path / "there").mkdir()
    (tmp_path / "s.csv").symlink_to("there/data")
    with Claim(tmp_path / "s.csv") as held:
        assert held.output == tmp_path / "there" / "data" and held.suffix == ".csv"
        assert held.parts == tmp_path / "there" / "data.parts" == parts_of(tmp_path / "s.csv")
    (tmp_path / "there" / "data").touch()
    with pytest.raises(UsageError, match=r"s\.csv exists"):
        Claim(tmp_path / "s.csv")
