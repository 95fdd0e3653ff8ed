"""Rows are never lost: parts, resume, merge, and two runs on one output."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from metaqap_fast.errors import MetaqapError, Status, UsageError
from metaqap_fast.records import Row
from metaqap_fast.scores.merge import merged
from metaqap_fast.scores.store import Store
from metaqap_fast.scores.table import ScoreTable
from rows import a_row

ATTRIBUTES = {"members": ["a", "b"], "bundle_digest": "d1", "engine": "e", "precision": "fp32", "program_version": "1"}


def rows(*numbers: int) -> list[Row]:
    return [a_row(b"%03d.jpg" % n, n / 1000) for n in numbers]


def write(output: Path, items: list[Row], mode: str = "new", per_part: int = 3, finish: bool = True) -> Store:
    store = Store(output, ATTRIBUTES, mode, rows_per_part=per_part)  # type: ignore[arg-type]
    for row in items:
        if row.key not in store.done:
            store.add(row)
    if finish:
        store.finish()
    else:
        store.close()
    return store


def test_round_trip(tmp_path: Path) -> None:
    out = tmp_path / "s.h5"
    bad = a_row(b"caf\xe9 \xff.jpg", status=Status.corrupt, error="because \u00fc")
    write(out, [*rows(*range(7)), bad])
    table = ScoreTable.read(out)
    assert table.keys == [*(row.key for row in rows(*range(7))), bad.key]
    assert table.error[-1] == "because \u00fc" and table.status[-1] == Status.corrupt and np.isnan(table.score[-1])
    assert os.fsencode(table.paths[-1]) == bad.key
    with h5py.File(out) as file:
        g = file["scores"]
        assert {name: g[name].dtype for name in ("score", "uncertainty", "members")} == dict.fromkeys(
            ("score", "uncertainty", "members"), np.dtype("f4")
        )
        assert h5py.check_enum_dtype(g["status"].dtype) == {s.name: s.value for s in Status}
        assert bytes(g["path_raw"][7]) == bad.key and len(g["path_raw"][0]) == 0
        assert file.attrs["format"] == "metaqap-scores" and file.attrs["created"].endswith("+00:00")
    assert not list(tmp_path.glob("*.parts"))


def test_rows_are_merged_in_the_order_of_their_keys(tmp_path: Path) -> None:
    out = tmp_path / "s.h5"
    write(out, rows(5, 1, 9, 0, 3, 8, 2), per_part=2)
    assert ScoreTable.read(out).keys == [row.key for row in rows(0, 1, 2, 3, 5, 8, 9)]


def test_resume_keeps_committed_rows_and_gives_the_same_file(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.h5", tmp_path / "cut.h5"
    write(whole, rows(*range(10)))
    write(cut, rows(*range(8)), finish=False)  # two parts of three rows; two rows were never committed
    store = write(cut, rows(*range(10)), mode="resume")
    assert len(store.done) == 6
    a, b = ScoreTable.read(whole), ScoreTable.read(cut)
    assert a.keys == b.keys and np.array_equal(a.score, b.score) and np.array_equal(a.members, b.members)


def test_resume_of_a_finished_output_adds_what_is_new(tmp_path: Path) -> None:
    out = tmp_path / "s.h5"
    write(out, rows(1, 3))
    write(out, rows(0, 1, 2, 3), mode="resume")
    assert ScoreTable.read(out).keys == [row.key for row in rows(0, 1, 2, 3)]


def test_nothing_is_overwritten_unless_told(tmp_path: Path) -> None:
    out = tmp_path / "s.h5"
    write(out, rows(1))
    with pytest.raises(UsageError, match="exists"):
        write(out, rows(2))
    assert ScoreTable.read(out).keys == [b"001.jpg"]
    write(out, rows(2), mode="overwrite")
    assert ScoreTable.read(out).keys == [b"002.jpg"]
    write(tmp_path / "t.h5", rows(1, 2, 3), finish=False)
    with pytest.raises(UsageError, match="interrupted run"):
        write(tmp_path / "t.h5", rows(1))
    write(tmp_path / "t.h5", rows(7), mode="overwrite")
    assert ScoreTable.read(tmp_path / "t.h5").keys == [b"007.jpg"]


def test_a_damaged_part_is_found_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "s.h5"
    write(out, rows(*range(6)), finish=False)
    part = sorted((tmp_path / "s.h5.parts").glob("part-*.h5"))[0]
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 0xFF
    part.write_bytes(bytes(data))
    store = Store(out, ATTRIBUTES, "resume")
    assert [row.key in store.done for row in rows(*range(6))] == [False] * 3 + [True] * 3
    assert part.name in caplog.text
    store.close()
    write(out, rows(*range(6)), mode="resume")
    assert ScoreTable.read(out).keys == [row.key for row in rows(*range(6))]


def test_half_a_part_is_no_part(tmp_path: Path) -> None:
    out = tmp_path / "s.h5"
    write(out, rows(*range(3)), finish=False)
    (tmp_path / "s.h5.parts" / "writing-0.tmp").write_bytes(b"half")
    write(out, rows(*range(5)), mode="resume")
    assert len(ScoreTable.read(out)) == 5


def test_second_run_on_one_output_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "s.h5"
    first = Store(out, ATTRIBUTES)
    code = (
        "import sys; from metaqap_fast.scores.store import Store; from metaqap_fast.errors import UsageError\n"
        f"try: Store({str(out)!r}, {ATTRIBUTES!r})\n"
        "except UsageError as e: sys.exit(str(e))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"another run (process {os.getpid()})" in result.stderr
    for row in rows(1):
        first.add(row)
    first.finish()
    assert len(ScoreTable.read(out)) == 1


def test_outputs_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        Store(tmp_path, ATTRIBUTES)
    with pytest.raises(UsageError, match="does not exist"):
        Store(tmp_path / "no" / "s.h5", ATTRIBUTES)


def test_a_failed_write_keeps_earlier_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "s.h5"
    store = Store(out, ATTRIBUTES, rows_per_part=2)
    for row in rows(1, 2):
        store.add(row)

    with monkeypatch.context() as patch:
        patch.setattr("metaqap_fast.scores.durable.append_rows", full_disk)
        store.add(a_row(b"003.jpg"))
        with pytest.raises(MetaqapError, match="No space left"):
            store.commit()
    store.close()
    write(out, rows(1, 2, 3), mode="resume")
    assert len(ScoreTable.read(out)) == 3


def test_files_that_are_no_score_files(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    for name in ("text.h5", "other.h5"):
        with pytest.raises(MetaqapError, match=name):
            ScoreTable.read(tmp_path / name)
    with pytest.raises(UsageError, match="no such file"):
        ScoreTable.read(tmp_path / "missing.h5")
    write(tmp_path / "new.h5", rows(1))
    with h5py.File(tmp_path / "new.h5", "a") as file:
        file.attrs["format_version"] = 9
    with pytest.raises(MetaqapError, match="format 9"):
        ScoreTable.read(tmp_path / "new.h5")


def test_failed_rows_are_scored_again_when_asked(tmp_path: Path) -> None:
    out = tmp_path / "s.h5"
    bad = a_row(b"001.jpg", status=Status.unreadable, error="gone")
    write(out, [*rows(0), bad, *rows(2)])
    kept = Store(out, ATTRIBUTES, "resume")
    assert b"001.jpg" in kept.done
    kept.close()
    store = Store(out, ATTRIBUTES, "resume", retry_failed=True)
    assert [key in store.done for key in (b"000.jpg", b"001.jpg", b"002.jpg")] == [True, False, True]
    store.add(a_row(b"001.jpg", score=0.9))
    store.finish()
    table = ScoreTable.read(out)
    assert table.keys == [b"000.jpg", b"001.jpg", b"002.jpg"] and table.ok.all() and table.score[1] == np.float32(0.9)


def test_a_single_part_becomes_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not written again; it is the file that a merge gives; and it is not lost where it cannot be renamed."""
    write(tmp_path / "merged.h5", rows(*range(8)))
    out = tmp_path / "s.h5"
    store = Store(out, ATTRIBUTES)
    for row in rows(*range(8)):
        store.add(row)
    store.commit()
    monkeypatch.setattr("metaqap_fast.scores.store.write_scores", None)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full_disk)
        with pytest.raises(MetaqapError, match="cannot write"):
            store.finish()
    assert len(list(store.parts.glob("part-*.h5"))) == 1
    store.finish()
    assert not store.parts.exists()
    assert contents(out) == contents(tmp_path / "merged.h5")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def no_flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", no_flock)
    write(tmp_path / "s.h5", rows(1))
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
        write(tmp_path / "s.h5", rows(1))
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
    write(out, rows(), mode="resume")
    table = ScoreTable.read(out)
    assert table.keys == [b"a", b"b", b"c"] and table.attributes["source"] == [*source, r"photos\xff"]


@pytest.mark.parametrize("length", [253, 252, 244, 243])
def test_a_name_that_is_too_long_is_refused_before_work(tmp_path: Path, length: int) -> None:
    """Also one that only the files beside the output would be too long for; the longest that works does."""
    out = tmp_path / ("s" * length + ".h5")
    if length > 243:
        with pytest.raises(MetaqapError, match=r"cannot write .*: File name too long$"):
            Store(out, ATTRIBUTES)
        assert not list(tmp_path.iterdir())
    else:
        write(out, rows(*range(8)))
        assert len(ScoreTable.read(out)) == 8


def test_columns_of_a_newer_version_are_not_lost(tmp_path: Path) -> None:
    """They can be read, exported and so on; but not rewritten without them."""
    out = tmp_path / "s.h5"
    write(out, rows(1))
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
    write(out, rows(1))
    with h5py.File(out, "a") as file:
        file.attrs["odd"] = value
    write(out, rows(2), mode="resume")
    assert ScoreTable.read(out).attributes["odd"] == expected


def contents(path: Path) -> dict[str, object]:
    found: dict[str, object] = {}

    def take(name: str, node: h5py.Group | h5py.Dataset) -> None:
        data = [node.dtype, node.chunks, repr(node[:].tolist())] if isinstance(node, h5py.Dataset) else []
        found[name] = [sorted(set(node.attrs) - {"created"}), *data]

    with h5py.File(path) as file:
        found[""] = sorted(file.attrs)
        file.visititems(take)
    return found


def full_disk(*_: object) -> None:
    raise OSError(28, "No space left on device")
